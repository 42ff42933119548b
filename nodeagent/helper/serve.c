/* The server: one thread, no state but its sockets. In: requests. Out: replies, and jobs that it forks and forgets.
 *
 * It keeps nothing that a restart would lose: sandboxes and containers are found through their files and processes. When it dies,
 * pauses and jobs go on as children of the node's init.
 */
#include "helper.h"

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mount.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#define MAX_CONNECTIONS 512

struct run_dir run_dir;
int template_mounts = -1;
static int epoll_fd = -1;
static int connections;

static bool below(char *path, const char *name) {
    return snprintf(path, MAX_PATH, "%s/%s", run_dir.base, name) < MAX_PATH && make_directories(path, 0700);
}

static bool prepare_directories(const char *socket_path) {
    char parent[MAX_PATH];
    snprintf(parent, sizeof parent, "%s", socket_path);
    char *slash = strrchr(parent, '/');
    if (!slash || slash == parent) {
        errno = EINVAL;
        return false;
    }
    *slash = 0;
    return make_directories(parent, 0700) && realpath(parent, run_dir.base) && below(run_dir.sandboxes, "sandboxes") &&
           below(run_dir.containers, "containers") && below(run_dir.root, "root");
}

/* The directory of pins is a mount point of its own, so that one unmount takes them all out of a copy of the namespace. */
static bool mount_pins(void) {
    struct stat pins, base;
    if (stat(run_dir.sandboxes, &pins) != 0 || stat(run_dir.base, &base) != 0) return false;
    if (pins.st_dev != base.st_dev) return true; /* an earlier server did it */
    return mount("sandboxes", run_dir.sandboxes, "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, "mode=700") == 0;
}

static bool make_template(void) {
    int answer[2];
    if (pipe2(answer, O_CLOEXEC) != 0) return false;
    pid_t child = spawn(CLONE_NEWNS, NULL);
    if (child < 0) return false;
    if (child == 0) {
        char result = mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0 && umount2(run_dir.sandboxes, MNT_DETACH) == 0;
        write_all(answer[1], &result, 1);
        pause(); /* the server ends it */
        _exit(0);
    }
    close(answer[1]);
    char result = 0;
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/ns/mnt", (int)child);
    if (read(answer[0], &result, 1) == 1 && result) template_mounts = open(path, O_RDONLY | O_CLOEXEC);
    close(answer[0]);
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    return template_mounts >= 0;
}

static int listen_on(const char *path) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (snprintf(address.sun_path, sizeof address.sun_path, "%s.new", path) >= (int)sizeof address.sun_path) {
        errno = ENAMETOOLONG;
        return -1;
    }
    unlink(address.sun_path);
    int listener = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    mode_t before = umask(0177);
    bool good = listener >= 0 && bind(listener, (struct sockaddr *)&address, sizeof address) == 0 &&
                listen(listener, MAX_CONNECTIONS) == 0 && rename(address.sun_path, path) == 0;
    umask(before);
    return good ? listener : -1;
}

/* A job may hold the same connection, so closing alone would leave it in the epoll set. */
static void drop(int connection) {
    epoll_ctl(epoll_fd, EPOLL_CTL_DEL, connection, NULL);
    close(connection);
    connections--;
}

static void accept_all(int listener) {
    for (;;) {
        int connection = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (connection < 0) return;
        int size = MAX_REQUEST;
        setsockopt(connection, SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
        struct epoll_event event = {.events = EPOLLIN, .data.fd = connection};
        if (connections >= MAX_CONNECTIONS || epoll_ctl(epoll_fd, EPOLL_CTL_ADD, connection, &event) != 0) {
            close(connection);
            continue;
        }
        connections++;
    }
}

/* Takes one datagram; false when the connection is finished. Descriptors beyond the three of stdio are closed. */
static bool receive(int connection, char *buffer, struct request *request, bool *whole) {
    union {
        struct cmsghdr header;
        char space[CMSG_SPACE(8 * sizeof(int))];
    } control;
    struct iovec part = {.iov_base = buffer, .iov_len = MAX_REQUEST};
    struct msghdr message = {
        .msg_iov = &part, .msg_iovlen = 1, .msg_control = control.space, .msg_controllen = sizeof control.space};
    ssize_t length = recvmsg(connection, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    if (length < 0) return errno == EAGAIN || errno == EINTR;
    int count = 0;
    for (struct cmsghdr *header = CMSG_FIRSTHDR(&message); header; header = CMSG_NXTHDR(&message, header)) {
        if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS) continue;
        int passed = (int)((header->cmsg_len - CMSG_LEN(0)) / sizeof(int));
        for (int index = 0; index < passed; index++) {
            int fd;
            memcpy(&fd, CMSG_DATA(header) + (size_t)index * sizeof fd, sizeof fd);
            if (count < 3)
                request->fds[count++] = fd;
            else
                close(fd);
        }
    }
    buffer[length] = 0;
    request->at = buffer;
    request->end = buffer + length;
    *whole = !(message.msg_flags & MSG_TRUNC);
    return length > 0;
}

static void fork_job(int connection, struct request *request, bool exec) {
    pid_t child = fork();
    if (child == 0) job_main(connection, request, exec);
    if (child < 0) send_text(connection, -1, "error %d fork\n", errno);
}

/* Answers one request; false when the connection is no longer the server's. */
static bool answer(int connection, struct request *request) {
    static struct reply reply;
    reply.length = 0;
    const char *verb = next_string(request);
    if (!verb) verb = "";
    bool exec = strcmp(verb, "exec") == 0;
    if (exec || strcmp(verb, "run") == 0) {
        fork_job(connection, request, exec);
        return false; /* the job has it now */
    }
    if (strcmp(verb, "create") == 0)
        sandbox_create(request, &reply);
    else if (strcmp(verb, "delete") == 0)
        sandbox_delete(request, &reply);
    else if (strcmp(verb, "hostname") == 0)
        sandbox_hostname(request, &reply);
    else if (strcmp(verb, "gone") == 0)
        sandbox_gone(request, &reply);
    else
        reply_line(&reply, "error %d unknown verb\n", EINVAL);
    if (reply.length == 0) reply_line(&reply, "error %d empty request\n", EINVAL);
    return send_reply(connection, &reply);
}

static void serve_connection(int connection) {
    static char buffer[MAX_REQUEST + 1];
    struct request request = {.fds = {-1, -1, -1}};
    bool whole = true;
    bool keep = receive(connection, buffer, &request, &whole);
    if (keep && !whole)
        keep = send_text(connection, -1, "error %d request of more than %d bytes\n", E2BIG, MAX_REQUEST);
    else if (keep && request.at)
        keep = answer(connection, &request);
    if (request.at) explicit_bzero(buffer, (size_t)(request.end - buffer)); /* the next job's memory is a copy of ours */
    for (int index = 0; index < 3; index++)
        if (request.fds[index] >= 0) close(request.fds[index]);
    if (!keep) drop(connection);
}

static int failed(const char *what) {
    fprintf(stderr, "podwire-helper: %s: %s\n", what, strerror(errno));
    return 1;
}

int serve(const char *socket_path) {
    umask(077);
    if (!prepare_directories(socket_path)) return failed("cannot make the run directory");
    if (!mount_pins()) return failed("cannot mount the directory of sandboxes");
    if (!make_template()) return failed("cannot make a mount namespace for containers");
    if (!sandbox_setup()) return failed("cannot open a netlink socket");
    signal(SIGCHLD, SIG_IGN); /* children are reaped by the kernel */
    sigset_t ends;
    sigemptyset(&ends);
    sigaddset(&ends, SIGTERM);
    sigaddset(&ends, SIGINT);
    sigprocmask(SIG_BLOCK, &ends, NULL);
    int asked_to_end = signalfd(-1, &ends, SFD_CLOEXEC);
    int listener = listen_on(socket_path);
    if (listener < 0) return failed(socket_path);
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event event = {.events = EPOLLIN, .data.fd = listener};
    if (epoll_fd < 0 || epoll_ctl(epoll_fd, EPOLL_CTL_ADD, listener, &event) != 0) return failed("epoll");
    event.data.fd = asked_to_end;
    if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, asked_to_end, &event) != 0) return failed("epoll");
    for (;;) {
        struct epoll_event events[32];
        int count = epoll_wait(epoll_fd, events, 32, -1);
        for (int index = 0; index < count; index++) {
            int fd = events[index].data.fd;
            if (fd == asked_to_end) {
                unlink(socket_path);
                return 0;
            }
            if (fd == listener)
                accept_all(listener);
            else
                serve_connection(fd);
        }
    }
}
