/* A container's root: a small tmpfs that shows the node's programs read-only.
 *
 * In: a job. Out: this process in a mount namespace of its own, whose root has /usr, /etc and their like bound read-only from the
 * node, the pod's hosts, resolv.conf and hostname over /etc's, its own /proc, /sys and /dev, and everything else empty, writable and
 * gone with the container. Device nodes are bound, because mknod fails in a user namespace.
 */
#include "helper.h"

#include <fcntl.h>
#include <sched.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <unistd.h>

#ifndef SYS_mount_setattr
#define SYS_mount_setattr 442
#endif

/* Paths are relative to the new root until the pivot: the working directory is there. */

static void make(const char *path, mode_t mode) {
    if (mkdir(path, mode) != 0 && errno != EEXIST) fail("make /%s", path);
}

static void make_file(const char *path) {
    int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
    if (fd >= 0) close(fd);
}

/* Read-only, with everything mounted below. Mounts that came from a more privileged namespace keep their flags. */
static bool make_read_only(const char *path) {
    struct {
        uint64_t set, clear, propagation, user_namespace;
    } attributes = {.set = 1 /* MOUNT_ATTR_RDONLY */};
    if (syscall(SYS_mount_setattr, AT_FDCWD, path, 0x8000 /* AT_RECURSIVE */, &attributes, sizeof attributes) == 0) return true;
    if (errno != ENOSYS) return false;
    struct statvfs status; /* kernels before 5.12: the top only */
    if (statvfs(path, &status) != 0) return false;
    unsigned long flags = status.f_flag & (ST_NOSUID | ST_NODEV | ST_NOEXEC | ST_NOATIME | ST_NODIRATIME | ST_RELATIME);
    return mount(NULL, path, NULL, MS_BIND | MS_REMOUNT | MS_RDONLY | flags, NULL) == 0;
}

static void bind_read_only(const char *source, const char *target) {
    if (mount(source, target, NULL, MS_BIND | MS_REC, NULL) != 0) fail("bind %s", source);
    if (!make_read_only(target)) fail("make %s read-only", source);
}

static void show_programs(void) {
    static const char *const names[] = {"usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32", "opt", "etc"};
    for (size_t index = 0; index < sizeof names / sizeof *names; index++) {
        char source[16], target[MAX_PATH];
        struct stat status;
        snprintf(source, sizeof source, "/%s", names[index]);
        if (lstat(source, &status) != 0) continue;
        if (S_ISLNK(status.st_mode)) {
            ssize_t length = readlink(source, target, sizeof target - 1);
            if (length <= 0) fail("read link %s", source);
            target[length] = 0;
            if (symlink(target, names[index]) != 0) fail("link %s", source);
        } else {
            make(names[index], 0755);
            bind_read_only(source, names[index]);
        }
    }
}

static void show_binds(const struct job *job) {
    for (int index = 0; index < job->bindc; index++) {
        const char *source = job->binds[index];
        struct stat status;
        if (stat(source, &status) != 0 || !S_ISDIR(status.st_mode)) continue;
        if (!make_directories(source + 1, 0755)) fail("make %s", source);
        bind_read_only(source, source + 1);
    }
}

static void write_executables(const struct job *job) {
    for (int index = 0; index < job->filec; index++) {
        char path[MAX_PATH];
        const char *content = strchr(job->executables[index], '\n');
        snprintf(path, sizeof path, "%.*s", (int)(content - job->executables[index] - 1), job->executables[index] + 1);
        int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0755);
        if (fd < 0 || !write_all(fd, content + 1, strlen(content + 1))) fail("write /%s", path);
        close(fd);
    }
}

static void make_devices(void) {
    static const char *const devices[] = {"null", "zero", "full", "random", "urandom", "tty"};
    for (size_t index = 0; index < sizeof devices / sizeof *devices; index++) {
        char source[32];
        snprintf(source, sizeof source, "/dev/%s", devices[index]);
        make_file(source + 1);
        if (mount(source, source + 1, NULL, MS_BIND, NULL) != 0) fail("bind %s", source);
    }
    make("dev/shm", 01777);
    make("dev/pts", 0755);
    /* Group 5 is tty, where this namespace has such a group. */
    if (mount("devpts", "dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620,gid=5") != 0 &&
        mount("devpts", "dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620") != 0)
        fail("mount /dev/pts");
    if (symlink("pts/ptmx", "dev/ptmx") != 0 || symlink("/proc/self/fd", "dev/fd") != 0 ||
        symlink("/proc/self/fd/0", "dev/stdin") != 0 || symlink("/proc/self/fd/1", "dev/stdout") != 0 ||
        symlink("/proc/self/fd/2", "dev/stderr") != 0)
        fail("link in /dev");
}

static void mount_kernel_views(void) {
    const unsigned long flags = MS_NOSUID | MS_NODEV | MS_NOEXEC;
    if (mount("proc", "proc", "proc", flags, NULL) != 0) fail("mount /proc");
    if (mount("sysfs", "sys", "sysfs", flags | MS_RDONLY, NULL) != 0) bind_read_only("/sys", "sys");
}

/* So that a fork bomb ends at a number. Kernels before 6.14 have one limit for the whole machine: it is left alone. */
static void limit_processes(void) {
    struct utsname kernel;
    int major = 0, minor = 0;
    if (uname(&kernel) != 0 || sscanf(kernel.release, "%d.%d", &major, &minor) != 2 || major * 1000 + minor < 6014) return;
    int fd = open("proc/sys/kernel/pid_max", O_WRONLY | O_CLOEXEC);
    if (fd < 0) return;
    write_all(fd, MAX_PROCESSES, strlen(MAX_PROCESSES)); /* refused in some user namespaces: then there is no limit */
    close(fd);
}

/* What in /proc and /sys reaches beyond the container: read-only or hidden, as container engines do it; and the node's secrets,
 * since its /etc is shown. */
static void guard_views(void) {
    static const char *const read_only[] = {"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"};
    static const char *const files[] = {"/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list", "/proc/sched_debug",
                                        "/etc/shadow", "/etc/shadow-", "/etc/gshadow", "/etc/gshadow-"};
    static const char *const directories[] = {"/proc/acpi", "/proc/asound", "/proc/scsi", "/sys/firmware", "/etc/ssl/private", "/etc/ssh"};
    for (size_t index = 0; index < sizeof read_only / sizeof *read_only; index++)
        if (access(read_only[index], F_OK) == 0) bind_read_only(read_only[index], read_only[index]);
    for (size_t index = 0; index < sizeof files / sizeof *files; index++)
        if (access(files[index], F_OK) == 0 && mount("/dev/null", files[index], NULL, MS_BIND, NULL) != 0)
            fail("hide %s", files[index]);
    for (size_t index = 0; index < sizeof directories / sizeof *directories; index++)
        if (access(directories[index], F_OK) == 0 &&
            mount("tmpfs", directories[index], "tmpfs", MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC, "size=0,mode=555") != 0)
            fail("hide %s", directories[index]);
}

/* Puts one of the pod's files over /etc's. Where the node's is a link (to a resolver's run directory, say), its target is made. */
static void show_pod_file(const char *target, int source) {
    char link[MAX_PATH], resolved[MAX_PATH + 8], from[64];
    ssize_t length = readlink(target, link, sizeof link - 1);
    if (length > 0) {
        link[length] = 0;
        snprintf(resolved, sizeof resolved, "%s%s", link[0] == '/' ? "" : "/etc/", link);
        char *slash = strrchr(resolved, '/');
        *slash = 0;
        if (*resolved) make_directories(resolved, 0755);
        *slash = '/';
        make_file(resolved);
        target = resolved;
    }
    snprintf(from, sizeof from, "/proc/self/fd/%d", source);
    /* A node without the file (ENOENT) needs none: /etc is read-only, and nothing there would read it. */
    if (mount(from, target, NULL, MS_BIND, NULL) != 0 && errno != ENOENT) fail("bind %s", target);
    close(source);
}

void build_root(const struct job *job) {
    static const char *const pod_files[] = {"hosts", "resolv.conf", "hostname"};
    static const char *const directories[] = {"run", "run/lock", "var",  "var/lib", "var/cache", "var/log", "home",
                                              "srv", "mnt",      "proc", "sys",     "dev",       ".node"};
    int sources[3];
    if (setns(template_mounts, CLONE_NEWNS) != 0 || unshare(CLONE_NEWNS) != 0) fail("make a mount namespace");
    for (int index = 0; index < 3; index++) {
        char path[MAX_PATH];
        snprintf(path, sizeof path, "%.*s/%s", MAX_PATH - 32, job->files, pod_files[index]);
        if ((sources[index] = open(path, O_PATH | O_CLOEXEC)) < 0 && errno != ENOENT) fail("open %s", path);
    }
    if (mount("podwire", run_dir.root, "tmpfs", MS_NOSUID | MS_NODEV, CONTAINER_TMPFS) != 0 || chdir(run_dir.root) != 0)
        fail("mount the container's root");
    umask(0);
    for (size_t index = 0; index < sizeof directories / sizeof *directories; index++) make(directories[index], 0755);
    make("root", 0700);
    make("tmp", 01777);
    make("var/tmp", 01777);
    if (symlink("/run", "var/run") != 0 || symlink("/run/lock", "var/lock") != 0) fail("link in /var");
    show_programs();
    show_binds(job);
    write_executables(job);
    make_devices();
    mount_kernel_views();
    limit_processes();
    if (syscall(SYS_pivot_root, ".", ".node") != 0 || chdir("/") != 0) fail("change root");
    for (int index = 0; index < 3; index++) {
        char target[32];
        snprintf(target, sizeof target, "/etc/%s", pod_files[index]);
        if (sources[index] >= 0) show_pod_file(target, sources[index]);
    }
    if (umount2("/.node", MNT_DETACH) != 0 || rmdir("/.node") != 0) fail("leave the node's root");
    if (!job->privileged) guard_views();
}
