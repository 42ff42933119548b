/* The way from a cloned process to a command: join namespaces, build the root, drop rights, connect stdio, exec.
 *
 * A container's first process stays as its init: it reaps, hands signals on to the command and ends with it, which ends all others
 * in the PID namespace. Its exit status goes to the waiter as a wait status, because a PID 1 cannot die of a signal it sends itself.
 */
#include "helper.h"

#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef TIOCGPTPEER
#define TIOCGPTPEER _IO('T', 0x41)
#endif

int report_fd = -1;

_Noreturn void fail(const char *format, ...) {
    char text[1024];
    int error = errno;
    int length = snprintf(text, sizeof text, "%d ", error);
    va_list arguments;
    va_start(arguments, format);
    int more = vsnprintf(text + length, sizeof text - (size_t)length, format, arguments);
    va_end(arguments);
    length += more < (int)sizeof text - length ? more : (int)sizeof text - length - 1;
    write_all(report_fd, text, (size_t)length);
    _exit(127);
}

/* Opens all first: after the mount namespace has changed, another /proc is there. */
static void join(int proc, const char *const *names, const int *kinds, int count) {
    int fds[8];
    for (int index = 0; index < count; index++)
        if ((fds[index] = openat(proc, names[index], O_RDONLY | O_CLOEXEC)) < 0) fail("open %s", names[index]);
    for (int index = 0; index < count; index++) {
        if (setns(fds[index], kinds[index]) != 0) fail("join %s", names[index]);
        close(fds[index]);
    }
    close(proc);
}

/* Leaves exactly the job's capabilities, as far as this process has them. */
static void drop_rights(const struct job *job) {
    struct {
        uint32_t version;
        int pid;
    } header = {.version = 0x20080522 /* _LINUX_CAPABILITY_VERSION_3 */};
    struct {
        uint32_t effective, permitted, inheritable;
    } sets[2];
    if (!job->privileged && prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) fail("set no_new_privs");
    for (int capability = 0; capability < 64; capability++) {
        if (job->capabilities >> capability & 1 || prctl(PR_CAPBSET_READ, capability, 0, 0, 0) <= 0) continue;
        if (prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) != 0) fail("drop capability %d", capability);
    }
    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
    if (syscall(SYS_capget, &header, sets) != 0) fail("read capabilities");
    for (int half = 0; half < 2; half++) {
        sets[half].permitted &= (uint32_t)(job->capabilities >> (32 * half));
        sets[half].effective = sets[half].permitted;
        sets[half].inheritable = 0;
    }
    if (syscall(SYS_capset, &header, sets) != 0) fail("drop capabilities");
}

/* The terminal is made here, in the container, so that its name exists there; the caller gets the other end. */
static void open_terminal(const struct job *job) {
    int unlocked = 0;
    int master = open("/dev/ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (master < 0 || ioctl(master, TIOCSPTLCK, &unlocked) != 0) fail("open /dev/ptmx");
    int terminal = ioctl(master, TIOCGPTPEER, O_RDWR | O_NOCTTY);
    if (terminal < 0) fail("open terminal");
    struct winsize size = {.ws_row = (unsigned short)job->rows, .ws_col = (unsigned short)job->columns};
    ioctl(terminal, TIOCSWINSZ, &size);
    if (ioctl(terminal, TIOCSCTTY, 0) != 0) fail("take terminal");
    if (!send_text(job->connection, master, "tty\n")) fail("hand over terminal");
    for (int fd = 0; fd < 3; fd++) dup2(terminal, fd);
    close(terminal);
    close(master);
}

static void connect_stdio(const struct job *job) {
    for (int fd = 0; fd < 3; fd++) {
        int from = job->stdio[fd] >= 0 ? job->stdio[fd] : open("/dev/null", O_RDWR | O_CLOEXEC);
        if (from < 0 || dup2(from, fd) < 0) fail("connect stdio");
    }
}

/* From here on this process dies with the one that watches it, which may have died already. */
static void follow_parent(void) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    struct pollfd watcher = {.fd = report_fd};
    if (poll(&watcher, 1, 0) > 0 && watcher.revents & POLLERR) _exit(127);
}

static _Noreturn void run_command(const struct job *job) {
    for (int number = 1; number < NSIG; number++) signal(number, SIG_DFL);
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    setsid();
    if (job->tty)
        open_terminal(job);
    else
        connect_stdio(job);
    umask(022);
    close_between(3, ~0U, true);
    make_directories(job->working_dir, 0755); /* as container engines do; a failure shows in the next line */
    if (chdir(job->working_dir) != 0) fail("change to working directory %.512s", job->working_dir);
    environ = (char **)job->env;
    execvp(job->argv[0], job->argv);
    fail("exec %.512s", job->argv[0]);
}

_Noreturn void joined_command(const struct job *job, int init_proc) {
    static const char *const names[] = {"ns/net", "ns/ipc", "ns/uts", "ns/mnt"};
    static const int kinds[] = {CLONE_NEWNET, CLONE_NEWIPC, CLONE_NEWUTS, CLONE_NEWNS};
    join(init_proc, names, kinds, 4);
    drop_rights(job);
    follow_parent();
    run_command(job);
}

/* Ends with the command, having told the waiter how it ended. */
static _Noreturn void be_init(pid_t command, int status_fd, const sigset_t *all) {
    for (;;) {
        int number = sigwaitinfo(all, NULL);
        if (number > 0 && number != SIGCHLD) kill(command, number);
        int status;
        for (pid_t ended; (ended = waitpid(-1, &status, WNOHANG)) > 0;) {
            if (ended != command) continue;
            write_all(status_fd, &status, sizeof status);
            _exit(WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status));
        }
    }
}

_Noreturn void container_init(const struct job *job, int sandbox_proc, int status_fd) {
    static const char *const names[] = {"ns/net", "ns/ipc", "ns/uts"};
    static const int kinds[] = {CLONE_NEWNET, CLONE_NEWIPC, CLONE_NEWUTS};
    rename_process("podwire-init");
    join(sandbox_proc, names, kinds, 3);
    build_root(job);
    drop_rights(job);
    follow_parent();
    if (!job->exec) connect_stdio(job); /* whoever writes to /proc/1/fd/1 in a container means its log */
    sigset_t all;
    sigfillset(&all);
    sigprocmask(SIG_BLOCK, &all, NULL); /* PID 1 gets only what it blocks or handles */
    pid_t command = spawn(0, NULL);
    if (command < 0) fail("fork");
    if (command == 0) run_command(job);
    int keep[] = {status_fd};
    close_all_but(keep, 1);
    be_init(command, status_fd, &all);
}
