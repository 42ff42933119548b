/* Sandboxes: a pause process that holds network, IPC and UTS namespaces, a pin, and a record of both.
 *
 * RUN/sandboxes/SLOT.net is a bind mount of the network namespace, RUN/sandboxes/SLOT.json says which process holds it. A pause
 * waits for one byte before it settles: when the server dies in the middle of a batch, those without a record end by themselves.
 * Each namespace also gets an id in the node's that is a function of its slot: a reference that does not keep it alive, by which
 * `gone` tells whether anything else still does (a socket, for example).
 */
#include "helper.h"

#include <ctype.h>
#include <fcntl.h>
#include <linux/net_namespace.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define MAX_BATCH 256
#define END_WITHIN_MS 2000

static int netlink = -1;
static int own_uts = -1;

bool sandbox_setup(void) {
    netlink = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
    /* An own copy of the UTS namespace: this process leaves it for each sandbox, and may come back only to one it owns. */
    if (unshare(CLONE_NEWUTS) != 0) return false;
    own_uts = open("/proc/self/ns/uts", O_RDONLY | O_CLOEXEC);
    struct timeval patience = {.tv_sec = 2};
    return netlink >= 0 && own_uts >= 0 && setsockopt(netlink, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience) == 0;
}

static bool valid_slot(const char *slot) {
    size_t length = slot ? strlen(slot) : 0;
    if (length == 0 || length > 32) return false;
    for (; *slot; slot++)
        if (!isalnum((unsigned char)*slot)) return false;
    return true;
}

static void path_of(char *path, const char *slot, const char *suffix) {
    snprintf(path, MAX_PATH, "%.*s/%.32s%s", MAX_PATH - 64, run_dir.sandboxes, slot, suffix);
}

/* FNV-1a of the slot, without the sign bit: two live slots of a node share one as good as never, and then the second is refused. */
static int32_t namespace_id(const char *slot) {
    uint32_t hash = 2166136261U;
    for (; *slot; slot++) hash = (hash ^ (unsigned char)*slot) * 16777619U;
    return (int32_t)(hash & 0x7fffffff);
}

/* One request about a namespace id; returns 0 or an errno. */
static int ask_namespace_id(uint16_t type, int32_t id, pid_t pid) {
    static uint32_t sequence;
    struct {
        struct nlmsghdr header;
        struct rtgenmsg family;
        char padding[3];
        struct {
            struct nlattr header;
            int32_t value;
        } attributes[2];
    } message = {.header = {.nlmsg_type = type, .nlmsg_flags = NLM_F_REQUEST, .nlmsg_seq = ++sequence}};
    int count = pid > 0 ? 2 : 1;
    message.attributes[0].header = (struct nlattr){.nla_len = 8, .nla_type = NETNSA_NSID};
    message.attributes[0].value = id;
    message.attributes[1].header = (struct nlattr){.nla_len = 8, .nla_type = NETNSA_PID};
    message.attributes[1].value = pid;
    message.header.nlmsg_len = (uint32_t)(offsetof(typeof(message), attributes) + 8 * (size_t)count);
    if (type == RTM_NEWNSID) message.header.nlmsg_flags |= NLM_F_ACK;
    if (send(netlink, &message, message.header.nlmsg_len, 0) < 0) return errno;
    for (;;) {
        union {
            struct nlmsghdr header;
            char space[1024];
        } answer;
        ssize_t length = recv(netlink, &answer, sizeof answer, 0);
        if (length < 0) return errno;
        if (length < (ssize_t)sizeof answer.header || answer.header.nlmsg_seq != sequence) continue; /* a late one */
        if (answer.header.nlmsg_type != NLMSG_ERROR) return 0;
        return -((struct nlmsgerr *)NLMSG_DATA(&answer.header))->error;
    }
}

static _Noreturn void pause_main(int go) {
    rename_process("pause");
    if (dup2(go, 3) != 3) _exit(1);
    close(0), close(1), close(2);
    close_between(4, ~0U, false);
    sigset_t all;
    sigfillset(&all);
    sigdelset(&all, SIGTERM);
    signal(SIGTERM, SIG_DFL);
    sigprocmask(SIG_SETMASK, &all, NULL);
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    struct {
        uint32_t version;
        int pid;
    } header = {.version = 0x20080522 /* _LINUX_CAPABILITY_VERSION_3 */};
    uint32_t none[6] = {0};
    char byte;
    if (chdir("/") != 0 || syscall(SYS_capset, &header, none) != 0 || read(3, &byte, 1) != 1) _exit(1);
    close(3);
    for (;;) pause();
}

/* Makes one sandbox whose pause still waits; returns its pidfd, or -1 with errno and the operation that failed. */
static int make_one(const char *slot, const char *hostname, int go, const char **operation, struct reply *reply) {
    char pin[MAX_PATH], record[MAX_PATH], source[64], text[128];
    path_of(pin, slot, ".net");
    path_of(record, slot, ".json");
    *operation = "create pin";
    int file = open(pin, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (file < 0) return -1;
    close(file);
    int pidfd = -1;
    pid_t pid = -1;
    *operation = "set hostname";
    if (unshare(CLONE_NEWUTS) == 0 && sethostname(hostname, strlen(hostname)) == 0) {
        *operation = "clone";
        pid = spawn(CLONE_NEWNET | CLONE_NEWIPC, &pidfd);
        if (pid == 0) pause_main(go);
    }
    if (pid > 0) {
        struct stat status;
        snprintf(source, sizeof source, "/proc/%d/ns/net", (int)pid);
        *operation = "pin network namespace";
        if (mount(source, pin, NULL, MS_BIND, NULL) == 0 && stat(pin, &status) == 0) {
            unsigned long long start = start_time(pid);
            *operation = "name network namespace";
            int error = ask_namespace_id(RTM_NEWNSID, namespace_id(slot), pid);
            errno = error == EEXIST ? EBUSY : error; /* a socket still holds the slot's namespace of before */
            if (error == 0) {
                *operation = "write record";
                snprintf(text, sizeof text, "{\"pid\": %d, \"start_time\": %llu, \"netns_inode\": %llu}\n", (int)pid, start,
                         (unsigned long long)status.st_ino);
                if (write_file_atomically(record, text, false)) {
                    reply_line(reply, "ok %d %llu %llu\n", (int)pid, start, (unsigned long long)status.st_ino);
                    return pidfd;
                }
            }
        }
        int saved = errno;
        send_signal(pidfd, SIGKILL);
        close(pidfd);
        errno = saved;
    }
    int saved = errno;
    umount2(pin, MNT_DETACH);
    unlink(pin);
    errno = saved;
    return -1;
}

void sandbox_create(struct request *request, struct reply *reply) {
    static int made[MAX_BATCH];
    int go[2], count = 0;
    if (pipe2(go, O_CLOEXEC) != 0) {
        reply_line(reply, "error %d pipe\n", errno);
        return;
    }
    for (char *slot; count < MAX_BATCH && (slot = next_string(request));) {
        const char *hostname = next_string(request), *operation = "check names";
        int pidfd = -1;
        errno = EINVAL;
        if (valid_slot(slot) && hostname && strlen(hostname) <= 64)
            pidfd = make_one(slot, hostname, go[0], &operation, reply);
        if (pidfd >= 0)
            made[count++] = pidfd;
        else
            reply_line(reply, "error %d %s\n", errno, operation);
    }
    if (setns(own_uts, CLONE_NEWUTS) != 0) _exit(1); /* the supervisor starts another with the right hostname */
    static const char bytes[MAX_BATCH];
    write_all(go[1], bytes, (size_t)count); /* a pipe holds far more */
    close(go[0]);
    close(go[1]);
    while (count > 0) close(made[--count]);
}

/* Kills the pause that the slot's record names, if that very process lives; returns its pidfd or -1. */
static int end_pause(const char *record) {
    char text[128] = {0};
    struct process process = {0};
    int file = open(record, O_RDONLY | O_CLOEXEC);
    ssize_t length = file >= 0 ? read(file, text, sizeof text - 1) : -1;
    if (file >= 0) close(file);
    if (length <= 0 || sscanf(text, "{\"pid\": %d, \"start_time\": %llu", &process.pid, &process.start) != 2) return -1;
    int pidfd = process.pid > 0 ? pidfd_of(process.pid) : -1;
    if (pidfd < 0) return -1;
    if (process.start != 0 && start_time(process.pid) == process.start && send_signal(pidfd, SIGKILL) == 0) return pidfd;
    close(pidfd);
    return -1;
}

void sandbox_delete(struct request *request, struct reply *reply) {
    static struct pollfd ending[MAX_BATCH];
    int count = 0;
    for (char *slot; count < MAX_BATCH && (slot = next_string(request)); count++) {
        ending[count] = (struct pollfd){.fd = -1, .events = POLLIN};
        if (!valid_slot(slot)) {
            reply_line(reply, "error %d check names\n", EINVAL);
            continue;
        }
        char pin[MAX_PATH], record[MAX_PATH];
        path_of(pin, slot, ".net");
        path_of(record, slot, ".json");
        ending[count].fd = end_pause(record);
        umount2(pin, MNT_DETACH); /* EINVAL: a pin that was never mounted */
        if ((unlink(pin) == 0 || errno == ENOENT) && (unlink(record) == 0 || errno == ENOENT))
            reply_line(reply, "ok\n");
        else
            reply_line(reply, "error %d remove pin\n", errno);
    }
    for (int index = 0; index < count; index++) { /* a dead process holds no namespace */
        if (ending[index].fd < 0) continue;
        poll(&ending[index], 1, END_WITHIN_MS);
        close(ending[index].fd);
    }
}

void sandbox_hostname(struct request *request, struct reply *reply) {
    unsigned long long pid = 0, start = 0;
    bool named = parse_number(next_string(request), &pid);
    named = parse_number(next_string(request), &start) && named;
    const char *hostname = next_string(request);
    if (!named || !hostname || strlen(hostname) > 64) {
        reply_line(reply, "error %d check names\n", EINVAL);
        return;
    }
    int proc = open_process((struct process){(pid_t)pid, start});
    int uts = proc < 0 ? -1 : openat(proc, "ns/uts", O_RDONLY | O_CLOEXEC);
    if (uts < 0)
        reply_line(reply, "error %d find sandbox\n", errno);
    else if (setns(uts, CLONE_NEWUTS) != 0)
        reply_line(reply, "error %d join namespace\n", errno);
    else {
        if (sethostname(hostname, strlen(hostname)) == 0)
            reply_line(reply, "ok\n");
        else
            reply_line(reply, "error %d set hostname\n", errno);
        if (setns(own_uts, CLONE_NEWUTS) != 0) _exit(1);
    }
    if (uts >= 0) close(uts);
    if (proc >= 0) close(proc);
}

void sandbox_gone(struct request *request, struct reply *reply) {
    const char *slot = next_string(request);
    if (!valid_slot(slot)) {
        reply_line(reply, "error %d check names\n", EINVAL);
        return;
    }
    int error = ask_namespace_id(RTM_GETNSID, namespace_id(slot), 0);
    if (error == 0 || error == ENOENT)
        reply_line(reply, "ok %d\n", error == ENOENT);
    else
        reply_line(reply, "error %d look for namespace\n", error);
}
