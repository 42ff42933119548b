/* podwire-helper: which mode, and the two small ones, `init` and `pause`. See helper.h for the whole picture. */
#include "helper.h"

#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

int serve(const char *socket_path); /* serve.c */

static int usage(void) {
    fputs("usage: podwire-helper serve --socket PATH | init | pause\n", stderr);
    return 2;
}

static void reap(void) {
    while (waitpid(-1, NULL, WNOHANG) > 0) {
    }
}

/* Waits for one of the blocked signals; TERM and INT answer true. */
static bool asked_to_end(const sigset_t *blocked) {
    int signal = sigwaitinfo(blocked, NULL);
    if (signal == SIGCHLD) reap();
    return signal == SIGTERM || signal == SIGINT;
}

static int pause_mode(const sigset_t *blocked) {
    rename_process("pause");
    while (!asked_to_end(blocked)) {
    }
    return 0;
}

/* PID 1 of a node. Everything in the namespace gets TERM, then ten seconds, then KILL; whoever cannot wait kills PID 1 itself. */
static int init_mode(const sigset_t *blocked) {
    rename_process("podwire-init");
    while (!asked_to_end(blocked)) {
    }
    if (getpid() != 1) return 0; /* outside a PID namespace of its own there is nothing it may end */
    kill(-1, SIGTERM);
    kill(-1, SIGCONT); /* a stopped process would not notice */
    struct timespec deadline, now;
    clock_gettime(CLOCK_MONOTONIC, &deadline);
    deadline.tv_sec += 10;
    sigset_t children;
    sigemptyset(&children);
    sigaddset(&children, SIGCHLD);
    for (;;) {
        pid_t ended = waitpid(-1, NULL, WNOHANG);
        if (ended > 0) continue;
        if (ended < 0) return 0; /* no children left */
        clock_gettime(CLOCK_MONOTONIC, &now);
        if (now.tv_sec >= deadline.tv_sec) break;
        struct timespec tick = {.tv_nsec = 200000000};
        sigtimedwait(&children, NULL, &tick);
    }
    kill(-1, SIGKILL);
    while (waitpid(-1, NULL, 0) > 0 || errno == EINTR) {
    }
    return 0;
}

/* Goes on from a sealed copy in memory. Otherwise a container could reach this file by /proc/PID/exe of the process that is about to
 * become its command, and overwrite it for all that come later. Where the kernel forbids programs in memory, the file's being in use
 * protects it as long as a server runs. */
static void run_from_memory(char **argv) {
    char path[64] = {0};
    if (readlink("/proc/self/exe", path, sizeof path - 1) < 0 || strncmp(path, "/memfd:", 7) == 0) return;
    int file = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
    int copy = memfd_create("podwire-helper", MFD_CLOEXEC | MFD_ALLOW_SEALING | 0x10U /* MFD_EXEC */);
    if (copy < 0) copy = memfd_create("podwire-helper", MFD_CLOEXEC | MFD_ALLOW_SEALING); /* kernels before 6.3 */
    struct stat status;
    bool whole = file >= 0 && copy >= 0 && fstat(file, &status) == 0;
    for (off_t done = 0; whole && done < status.st_size;) whole = sendfile(copy, file, &done, (size_t)(status.st_size - done)) > 0;
    if (whole && fcntl(copy, F_ADD_SEALS, F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE) == 0)
        fexecve(copy, argv, environ); /* returns on failure only */
    if (file >= 0) close(file);
    if (copy >= 0) close(copy);
}

/* A container's first process is a copy of this one, and whoever is root there can read /proc/1/environ: the environment of whoever
 * started the cluster, with what secrets it may hold, must not be in it. */
static void forget_environment(void) {
    for (char **variable = environ; *variable; variable++) explicit_bzero(*variable, strlen(*variable));
    clearenv();
}

int main(int argc, char **argv) {
    if (argc < 2) return usage();
    bool serving = argc == 4 && strcmp(argv[1], "serve") == 0 && strcmp(argv[2], "--socket") == 0;
    bool as_init = argc == 2 && strcmp(argv[1], "init") == 0;
    bool as_pause = argc == 2 && strcmp(argv[1], "pause") == 0;
    if (!serving && !as_init && !as_pause) return usage();

    if (serving) run_from_memory(argv);
    rename_process("podwire-helper");
    char *socket_path = serving ? strdup(argv[3]) : NULL;
    title = argv[0]; /* the kernel lays the arguments out one after the other */
    title_size = (size_t)(argv[argc - 1] + strlen(argv[argc - 1]) - argv[0]);
    forget_environment();
    if (serving) return socket_path ? serve(socket_path) : 1;

    sigset_t blocked;
    sigemptyset(&blocked);
    sigaddset(&blocked, SIGTERM);
    sigaddset(&blocked, SIGINT);
    sigaddset(&blocked, SIGCHLD);
    sigprocmask(SIG_BLOCK, &blocked, NULL);
    return as_init ? init_mode(&blocked) : pause_mode(&blocked);
}
