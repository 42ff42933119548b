/* podwire-helper: shared declarations.
 *
 * One static program, because a Python thread cannot join a mount namespace and a process with gRPC must not fork. Modes:
 *   serve --socket PATH   helper.c    listens for requests (serve.c), makes sandboxes (sandbox.c), forks jobs (job.c)
 *   init                  helper.c    PID 1 of a node: reaps, and on TERM ends everything and then itself
 *   pause                 helper.c    waits for TERM
 *
 * A request is one datagram of NUL-terminated strings, the first of which is the verb; a reply is one datagram of text lines.
 * The server answers these, with a line per item, "ok …" or "error ERRNO OPERATION":
 *   create (SLOT HOSTNAME)…      ok PID START INODE
 *   delete SLOT…                 ok
 *   hostname PID START HOSTNAME  ok
 *   gone SLOT                    ok 1 | ok 0
 * The connection of these is handed to a forked job, which answers on it (job.c); `set` there lists the settings KEY=VALUE:
 *   run SETTING…                 started PID START | error …
 *   exec SETTING… (+ stdin, stdout, stderr as descriptors, or tty=ROWSxCOLUMNS)
 *                                [tty (+ the terminal's master)] started PID START | error …, then: exit CODE SIGNAL
 */
#ifndef PODWIRE_HELPER_H
#define PODWIRE_HELPER_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/types.h>

#define MAX_REQUEST (192 * 1024)
#define MAX_REPLY (64 * 1024)
#define MAX_PATH 4096
#define MAX_PROCESSES "2048" /* of one container, where the kernel counts per PID namespace */
#define CONTAINER_TMPFS "mode=755,size=256m,nr_inodes=65536"

/* Directories below the one that holds the socket. Absolute. */
struct run_dir {
    char base[MAX_PATH];
    char sandboxes[MAX_PATH];
    char containers[MAX_PATH];
    char root[MAX_PATH];
};
extern struct run_dir run_dir;

/* A mount namespace without the sandboxes' pins: every container's is copied from it. A copy of the node's own would hold every
 * pinned network namespace of the node for a while, and would cost more with each pod. */
extern int template_mounts;

/* A request taken apart: `next` walks its strings. */
struct request {
    char *at;
    char *end;
    int fds[3]; /* passed along; -1 where absent */
};
char *next_string(struct request *request); /* NULL at the end */

/* A reply being written; a reply that would not fit is cut at a whole line, which the client reads as a failure of the rest. */
struct reply {
    char text[MAX_REPLY];
    size_t length;
};
void reply_line(struct reply *reply, const char *format, ...) __attribute__((format(printf, 2, 3)));
bool send_reply(int connection, const struct reply *reply);
bool send_text(int connection, int fd, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* A process, identified by pid and start time, so that a reused pid is never taken for it. */
struct process {
    pid_t pid;
    unsigned long long start;
};
bool parse_number(const char *text, unsigned long long *value);
unsigned long long start_time(pid_t pid);        /* 0 where there is no such process */
int open_process(struct process process);        /* /proc/PID as a directory, or -1 with errno ESRCH */
int pidfd_of(pid_t pid);
int send_signal(int pidfd, int signal);
pid_t spawn(uint64_t flags, int *pidfd);         /* fork with namespace flags; pidfd may be NULL */

bool write_all(int fd, const void *data, size_t length);
bool write_file_atomically(const char *path, const char *text, bool sync);
bool make_directories(const char *path, mode_t mode);
void close_between(unsigned first, unsigned last, bool on_exec_only);
void close_all_but(const int *keep, int count); /* and 0, 1, 2 */
void rename_process(const char *name);
extern char *title;        /* argv of this process, which `ps` shows */
extern size_t title_size;
int64_t wall_ms(void);

/* sandbox.c */
bool sandbox_setup(void);
void sandbox_create(struct request *request, struct reply *reply);
void sandbox_delete(struct request *request, struct reply *reply);
void sandbox_hostname(struct request *request, struct reply *reply);
void sandbox_gone(struct request *request, struct reply *reply);

/* job.c */
_Noreturn void job_main(int connection, struct request *request, bool exec);

/* What a job was asked to do. */
#define MAX_WORDS 4096
#define MAX_BINDS 64
struct job {
    bool exec;      /* stdio belongs to the caller, nothing goes to disk */
    bool tty;
    bool privileged; /* all capabilities, and /proc is left writable */
    unsigned rows, columns;
    struct process sandbox; /* whose network, IPC and UTS namespaces to join */
    struct process join;    /* exec only: a running container's init, whose mounts and PIDs to join; pid 0: a new root */
    const char *directory;  /* run only: where log and exit.json go */
    const char *record;     /* run only: the file that tells a new agent of this container */
    const char *boot;       /* run only: copied into the record */
    const char *files;      /* holds hosts, resolv.conf and hostname */
    const char *working_dir;
    uint64_t capabilities;
    int argc, envc, bindc, filec;
    char *argv[MAX_WORDS + 1];
    char *env[MAX_WORDS + 1];
    char *binds[MAX_BINDS];  /* further paths of the node to show, read-only */
    char *executables[MAX_BINDS]; /* "PATH\nCONTENT": small scripts to make */
    int stdio[3];
    int connection;
};

/* command.c: from a freshly cloned process to the command itself. Failures go to `report_fd`, and end the process. */
_Noreturn void container_init(const struct job *job, int sandbox_proc, int status_fd);
_Noreturn void joined_command(const struct job *job, int init_proc);
extern int report_fd;
_Noreturn void fail(const char *format, ...) __attribute__((format(printf, 1, 2))); /* adds errno */

/* rootfs.c */
void build_root(const struct job *job);

/* log.c */
struct log_stream {
    const char *name; /* "stdout" or "stderr" */
    int fd;
    size_t length;
    char line[16 * 1024];
};
struct log {
    const char *directory;
    int fd;
    size_t size;
};
bool log_open(struct log *log, const char *directory);
bool log_read(struct log *log, struct log_stream *stream); /* false at the end of the stream */
void log_finish(struct log *log, struct log_stream *stream);

#endif
