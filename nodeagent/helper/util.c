/* Small things that every part needs: processes by identity, replies, files. */
#include "helper.h"

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#ifndef SYS_close_range
#define SYS_close_range 436 /* one number on all machines; headers before Linux 5.9 lack it */
#endif

char *title;
size_t title_size;

char *next_string(struct request *request) {
    if (request->at >= request->end) return NULL;
    char *string = request->at;
    request->at += strlen(string) + 1; /* the receiver ended the buffer with a NUL */
    return string;
}

void reply_line(struct reply *reply, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    size_t room = sizeof reply->text - reply->length;
    int length = vsnprintf(reply->text + reply->length, room, format, arguments);
    va_end(arguments);
    if (length >= 0 && (size_t)length < room) reply->length += (size_t)length;
}

bool send_reply(int connection, const struct reply *reply) {
    return send(connection, reply->text, reply->length, MSG_NOSIGNAL | MSG_DONTWAIT) == (ssize_t)reply->length;
}

bool send_text(int connection, int fd, const char *format, ...) {
    char text[1024];
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    if (length >= (int)sizeof text) length = sizeof text - 1;
    struct iovec part = {.iov_base = text, .iov_len = (size_t)length};
    union {
        struct cmsghdr header;
        char space[CMSG_SPACE(sizeof(int))];
    } control = {0};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
    if (fd >= 0) {
        message.msg_control = control.space;
        message.msg_controllen = sizeof control.space;
        struct cmsghdr *header = CMSG_FIRSTHDR(&message);
        header->cmsg_level = SOL_SOCKET;
        header->cmsg_type = SCM_RIGHTS;
        header->cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(header), &fd, sizeof fd);
    }
    return sendmsg(connection, &message, MSG_NOSIGNAL | MSG_DONTWAIT) == length;
}

bool parse_number(const char *text, unsigned long long *value) {
    if (!text || *text < '0' || *text > '9') return false;
    char *end;
    errno = 0;
    *value = strtoull(text, &end, 10);
    return errno == 0 && *end == 0;
}

static unsigned long long start_time_in(int proc) {
    char text[1024];
    int fd = openat(proc, "stat", O_RDONLY | O_CLOEXEC);
    if (fd < 0) return 0;
    ssize_t length = read(fd, text, sizeof text - 1);
    close(fd);
    if (length <= 0) return 0;
    text[length] = 0;
    char *field = strrchr(text, ')'); /* the name before it may hold anything */
    for (int number = 2; field && number < 22; number++) field = strchr(field + 1, ' ');
    return field ? strtoull(field + 1, NULL, 10) : 0;
}

static int open_proc(pid_t pid) {
    char path[64];
    snprintf(path, sizeof path, "/proc/%d", (int)pid);
    return open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
}

unsigned long long start_time(pid_t pid) {
    int proc = open_proc(pid);
    if (proc < 0) return 0;
    unsigned long long start = start_time_in(proc);
    close(proc);
    return start;
}

int open_process(struct process process) {
    int proc = process.pid > 0 ? open_proc(process.pid) : -1;
    if (proc >= 0 && process.start != 0 && start_time_in(proc) == process.start) return proc;
    if (proc >= 0) close(proc);
    errno = ESRCH;
    return -1;
}

int pidfd_of(pid_t pid) { return (int)syscall(SYS_pidfd_open, pid, 0); }

int send_signal(int pidfd, int signal) { return (int)syscall(SYS_pidfd_send_signal, pidfd, signal, NULL, 0); }

pid_t spawn(uint64_t flags, int *pidfd) {
    struct {
        uint64_t flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls;
    } arguments = {.flags = flags, .exit_signal = SIGCHLD};
    if (pidfd) {
        arguments.flags |= CLONE_PIDFD;
        arguments.pidfd = (uint64_t)(uintptr_t)pidfd;
    }
    return (pid_t)syscall(SYS_clone3, &arguments, sizeof arguments);
}

bool write_all(int fd, const void *data, size_t length) {
    const char *at = data;
    while (length > 0) {
        ssize_t written = write(fd, at, length);
        if (written < 0 && errno == EINTR) continue;
        if (written <= 0) return false;
        at += written;
        length -= (size_t)written;
    }
    return true;
}

bool write_file_atomically(const char *path, const char *text, bool sync) {
    char beside[MAX_PATH];
    if (snprintf(beside, sizeof beside, "%s.new", path) >= (int)sizeof beside) {
        errno = ENAMETOOLONG;
        return false;
    }
    int fd = open(beside, O_WRONLY | O_CREAT | O_CLOEXEC, 0600); /* not truncated first: it may hold the space it needs */
    if (fd < 0) return false;
    bool good = write_all(fd, text, strlen(text)) && ftruncate(fd, (off_t)strlen(text)) == 0 && (!sync || fsync(fd) == 0);
    int saved = errno;
    close(fd);
    if (!good || rename(beside, path) != 0) {
        if (good) saved = errno;
        unlink(beside);
        errno = saved;
        return false;
    }
    if (!sync) return true;
    char *slash = strrchr(beside, '/');
    if (slash) *slash = 0;
    int directory = open(slash ? beside : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (directory < 0) return false;
    good = fsync(directory) == 0;
    close(directory);
    return good;
}

bool make_directories(const char *path, mode_t mode) {
    char partial[MAX_PATH];
    if (snprintf(partial, sizeof partial, "%s", path) >= (int)sizeof partial) {
        errno = ENAMETOOLONG;
        return false;
    }
    for (char *slash = partial + 1; (slash = strchr(slash, '/')); slash++) {
        *slash = 0;
        if (mkdir(partial, mode) != 0 && access(partial, F_OK) != 0) return false;
        *slash = '/';
    }
    return mkdir(partial, mode) == 0 || access(partial, F_OK) == 0;
}

void close_between(unsigned first, unsigned last, bool on_exec_only) {
    if (first > last) return;
    if (syscall(SYS_close_range, first, last, on_exec_only ? 4U /* CLOSE_RANGE_CLOEXEC */ : 0U) == 0) return;
    long limit = sysconf(_SC_OPEN_MAX); /* kernels before 5.9 (5.11 for the flag) */
    for (long fd = first; fd < limit && fd <= (long)last; fd++) {
        if (on_exec_only)
            fcntl((int)fd, F_SETFD, FD_CLOEXEC);
        else
            close((int)fd);
    }
}

void close_all_but(const int *keep, int count) {
    unsigned first = 3;
    for (;;) {
        unsigned next = ~0U;
        for (int index = 0; index < count; index++)
            if (keep[index] >= 0 && (unsigned)keep[index] >= first && (unsigned)keep[index] < next)
                next = (unsigned)keep[index];
        if (next == ~0U) break;
        close_between(first, next - 1, false);
        first = next + 1;
    }
    close_between(first, ~0U, false);
}

void rename_process(const char *name) {
    prctl(PR_SET_NAME, name);
    if (!title_size) return;
    memset(title, 0, title_size);
    snprintf(title, title_size, "%s", name);
}

int64_t wall_ms(void) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}
