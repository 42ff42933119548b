/* A job: the process that stays with one container (the waiter of `run`) or one command (`exec`).
 *
 * In: a request of `key=value` strings and the caller's connection. Out, on the connection: "started PID START", or "error ERRNO
 * WHY"; for exec also "tty" with the terminal's master, and at the end "exit CODE SIGNAL". A waiter writes the container's output to
 * DIR/log and its end to DIR/exit.json, whoever else lives by then. When a waiter dies, its container is killed; when the
 * connection of an exec is closed, its command is.
 */
#include "helper.h"

#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define MAX_EXIT 256 /* bytes of exit.json */

struct running {
    pid_t pid;
    int pidfd;
    int status;  /* the container's init writes the command's wait status here; -1 when the child is the command itself */
    int report;  /* what went wrong before the command ran; closed by a successful exec */
    int64_t started_ms;
    struct log log;
    struct log_stream streams[2];
};

static bool parse_process(const char *text, struct process *process) {
    char number[32];
    unsigned long long pid;
    const char *colon = strchr(text, ':');
    if (!colon || colon - text >= (long)sizeof number) return false;
    memcpy(number, text, (size_t)(colon - text));
    number[colon - text] = 0;
    if (!parse_number(number, &pid) || pid > 0x7fffffff || !parse_number(colon + 1, &process->start)) return false;
    process->pid = (pid_t)pid;
    return true;
}

static bool add(char **list, int *count, int limit, char *value) {
    if (*count >= limit) return false;
    list[(*count)++] = value;
    return true;
}

static const char *value_of(const char *string, const char *key) {
    size_t length = strlen(key);
    return strncmp(string, key, length) == 0 && string[length] == '=' ? string + length + 1 : NULL;
}

/* One setting; false when it is unknown or wrong. */
static bool set(struct job *job, char *string) {
    const char *value;
    if ((value = value_of(string, "arg"))) return add(job->argv, &job->argc, MAX_WORDS, (char *)value);
    if ((value = value_of(string, "env"))) return add(job->env, &job->envc, MAX_WORDS, (char *)value);
    if ((value = value_of(string, "bind"))) return *value == '/' && add(job->binds, &job->bindc, MAX_BINDS, (char *)value);
    if ((value = value_of(string, "executable")))
        return *value == '/' && strchr(value, '\n') && add(job->executables, &job->filec, MAX_BINDS, (char *)value);
    if ((value = value_of(string, "sandbox"))) return parse_process(value, &job->sandbox);
    if ((value = value_of(string, "join"))) return parse_process(value, &job->join);
    if ((value = value_of(string, "directory"))) return *(job->directory = value) == '/';
    if ((value = value_of(string, "record"))) return *(job->record = value) == '/';
    if ((value = value_of(string, "boot"))) return !strpbrk(job->boot = value, "\"\\\n");
    if ((value = value_of(string, "files"))) return *(job->files = value) == '/';
    if ((value = value_of(string, "cwd"))) return *(job->working_dir = value) == '/';
    if ((value = value_of(string, "tty"))) return job->tty = sscanf(value, "%ux%u", &job->rows, &job->columns) == 2;
    if (strcmp(string, "privileged=1") == 0) return job->privileged = true;
    if ((value = value_of(string, "capabilities"))) {
        char *end;
        job->capabilities = strtoull(value, &end, 16);
        return *value && *end == 0;
    }
    return false;
}

/* Fills the job from the request; returns what is wrong with it, or NULL. */
static const char *parse(struct job *job, struct request *request) {
    static char wrong[128];
    for (char *string; (string = next_string(request));) {
        if (set(job, string)) continue;
        int length = (int)strcspn(string, "=\n");
        snprintf(wrong, sizeof wrong, "wrong setting %.*s", length > 64 ? 64 : length, string);
        return wrong;
    }
    if (job->argc == 0) return "no command";
    if (!job->working_dir) job->working_dir = "/";
    if (job->exec && job->join.pid) return NULL;
    if (!job->sandbox.pid) return "no sandbox";
    if (!job->files) return "no files directory";
    if (!job->exec && (!job->directory || !job->record || !job->boot)) return "no directory, record or boot";
    return NULL;
}

static void refuse(const struct job *job, int error, const char *why) {
    send_text(job->connection, -1, "error %d %.512s\n", error, why);
}

/* Clones the process that becomes the container or the command. Returns false with errno. */
static bool launch(struct job *job, struct running *running) {
    int report[2], status[2] = {-1, -1};
    bool joined = job->exec && job->join.pid;
    int target = open_process(joined ? job->join : job->sandbox);
    if (target < 0 || pipe2(report, O_CLOEXEC) != 0 || (!joined && pipe2(status, O_CLOEXEC) != 0)) return false;
    if (joined) {
        int pids = openat(target, "ns/pid", O_RDONLY | O_CLOEXEC);
        if (pids < 0 || setns(pids, CLONE_NEWPID) != 0) return false; /* for children only */
        close(pids);
    }
    running->pid = spawn(joined ? 0 : CLONE_NEWPID, &running->pidfd);
    if (running->pid < 0) return false;
    if (running->pid == 0) {
        int keep[] = {report[1],       status[1],       target,         job->stdio[0], job->stdio[1],
                      job->stdio[2], job->connection, template_mounts};
        close_all_but(keep, sizeof keep / sizeof *keep);
        report_fd = report[1];
        if (joined) joined_command(job, target);
        container_init(job, target, status[1]);
    }
    close(report[1]);
    if (status[1] >= 0) close(status[1]);
    close(target);
    for (int index = 0; index < 3; index++) {
        if (job->stdio[index] >= 0) close(job->stdio[index]);
        job->stdio[index] = -1;
    }
    running->report = report[0];
    running->status = status[0];
    return true;
}

/* Waits until the command runs; false, with the child's words "ERRNO WHY" in `text`, when it does not. */
static bool await_start(struct running *running, char *text, size_t size) {
    size_t length = 0;
    for (;;) {
        ssize_t got = read(running->report, text + length, size - 1 - length);
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) break;
        length += (size_t)got;
    }
    close(running->report);
    running->started_ms = wall_ms();
    text[length] = 0;
    return length == 0;
}

/* The command's wait status: its init's word, or how the child itself ended when it had no time for one (killed: 137). */
static int collect(struct running *running) {
    int own = 0, told;
    while (waitpid(running->pid, &own, 0) < 0 && errno == EINTR) {
    }
    if (running->status >= 0 && read(running->status, &told, sizeof told) == (ssize_t)sizeof told) return told;
    return own;
}

static int code_of(int status) { return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status); }
static int signal_of(int status) { return WIFSIGNALED(status) ? WTERMSIG(status) : 0; }

static bool write_record(const struct job *job, const struct running *running) {
    char text[512];
    snprintf(text, sizeof text,
             "{\"waiter\": %d, \"waiter_start\": %llu, \"init\": %d, \"init_start\": %llu, \"boot\": \"%.200s\"}\n",
             (int)getpid(), start_time(getpid()), (int)running->pid, start_time(running->pid), job->boot);
    return write_file_atomically(job->record, text, false);
}

/* Takes the space for exit.json while there is some: on a full disk containers can still be stopped and deleted. */
static void reserve_exit(const struct job *job) {
    char path[MAX_PATH], space[MAX_EXIT] = {0};
    snprintf(path, sizeof path, "%.*s/exit.json.new", MAX_PATH - 16, job->directory);
    int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0) return;
    write_all(fd, space, sizeof space);
    close(fd);
}

static void write_exit(const struct job *job, const struct running *running, int status) {
    char path[MAX_PATH], text[MAX_EXIT];
    snprintf(path, sizeof path, "%.*s/exit.json", MAX_PATH - 16, job->directory);
    snprintf(text, sizeof text, "{\"code\": %d, \"signal\": %d, \"started_unix_ms\": %lld, \"finished_unix_ms\": %lld}\n",
             code_of(status), signal_of(status), (long long)running->started_ms, (long long)wall_ms());
    while (!write_file_atomically(path, text, true) && (errno == ENOSPC || errno == EDQUOT || errno == EINTR))
        sleep(1); /* the only copy of this knowledge: wait for space */
}

/* Moves output into the log until the container has ended and its pipes are empty. They need not be closed: a descriptor may have
 * been handed to a process of another container. */
static void follow(struct running *running) {
    struct pollfd waiting[3] = {{.fd = running->streams[0].fd, .events = POLLIN},
                                {.fd = running->streams[1].fd, .events = POLLIN},
                                {.fd = running->pidfd, .events = POLLIN}};
    bool ended = false;
    for (;;) {
        int ready = poll(waiting, 3, ended ? 0 : -1);
        if (ready < 0 && errno == EINTR) continue;
        if (ready <= 0) break; /* ended, and nothing left */
        for (int index = 0; index < 2; index++)
            if (waiting[index].revents && !log_read(&running->log, &running->streams[index])) waiting[index].fd = -1;
        if (waiting[2].revents) {
            ended = true;
            waiting[2].fd = -1;
        }
    }
    for (int index = 0; index < 2; index++) log_finish(&running->log, &running->streams[index]);
}

static void run(struct job *job) {
    static struct running running = {.streams = {{.name = "stdout"}, {.name = "stderr"}}};
    for (int index = 0; index < 2; index++) {
        int ends[2];
        if (pipe2(ends, O_CLOEXEC) != 0) return refuse(job, errno, "pipe");
        running.streams[index].fd = ends[0];
        job->stdio[index + 1] = ends[1];
    }
    if (!log_open(&running.log, job->directory)) return refuse(job, errno, "open log");
    reserve_exit(job);
    if (!launch(job, &running)) return refuse(job, errno, "join the sandbox");
    if (!write_record(job, &running)) {
        send_signal(running.pidfd, SIGKILL);
        return refuse(job, errno, "write record");
    }
    char why[1024], path[MAX_PATH];
    if (!await_start(&running, why, sizeof why)) { /* all traces go before the caller hears of it */
        snprintf(path, sizeof path, "%.*s/log", MAX_PATH - 16, job->directory);
        collect(&running);
        unlink(job->record);
        unlink(path);
        snprintf(path, sizeof path, "%.*s/exit.json.new", MAX_PATH - 16, job->directory);
        unlink(path);
        send_text(job->connection, -1, "error %s\n", why);
        return;
    }
    send_text(job->connection, -1, "started %d %llu\n", (int)running.pid, start_time(running.pid));
    close(job->connection);
    follow(&running);
    write_exit(job, &running, collect(&running));
    unlink(job->record);
}

static void exec_command(struct job *job) {
    static struct running running = {.status = -1};
    if (!launch(job, &running)) return refuse(job, errno, "join the container");
    char why[1024];
    if (!await_start(&running, why, sizeof why)) {
        collect(&running);
        send_text(job->connection, -1, "error %s\n", why);
        return;
    }
    send_text(job->connection, -1, "started %d %llu\n", (int)running.pid, start_time(running.pid));
    struct pollfd waiting[2] = {{.fd = running.pidfd, .events = POLLIN}, {.fd = job->connection, .events = POLLIN}};
    while (!waiting[0].revents) {
        if (poll(waiting, 2, -1) < 0 && errno != EINTR) break;
        char ignored[64];
        if (waiting[1].revents && recv(job->connection, ignored, sizeof ignored, MSG_DONTWAIT) <= 0) {
            kill(-running.pid, SIGKILL); /* its session; a container's init takes all with it */
            send_signal(running.pidfd, SIGKILL);
            waiting[1].fd = -1;
        }
    }
    int status = collect(&running);
    send_text(job->connection, -1, "exit %d %d\n", code_of(status), signal_of(status));
}

_Noreturn void job_main(int connection, struct request *request, bool exec) {
    static struct job job = {.stdio = {-1, -1, -1}};
    job.exec = exec;
    job.connection = connection;
    if (exec) memcpy(job.stdio, request->fds, sizeof job.stdio);
    setsid();
    signal(SIGCHLD, SIG_DFL);
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    for (int fd = 0; fd < 3; fd++) dup2(null, fd);
    int keep[] = {connection, job.stdio[0], job.stdio[1], job.stdio[2], template_mounts};
    close_all_but(keep, sizeof keep / sizeof *keep);
    rename_process(exec ? "podwire-exec" : "podwire-waiter");
    const char *wrong = parse(&job, request);
    if (wrong)
        refuse(&job, EINVAL, wrong);
    else if (exec)
        exec_command(&job);
    else
        run(&job);
    _exit(0);
}
