/* What a step might try against the machine that it runs on. Each deed is harmless where it succeeds.
 *
 *   attack DEED [ARGUMENT]    prints "DEED broke" if the deed was done, else "DEED held: why"
 *
 * Tokens to look for are given backwards, so that no argument or copy of it is taken for the find.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <linux/perf_event.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/sysmacros.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

/* Newer than the headers of some machines; the same number everywhere. */
enum { OPEN_TREE = 428, MOVE_MOUNT = 429, FSOPEN = 430, FSCONFIG = 431, FSMOUNT = 432, PIDFD_OPEN = 434,
       CLONE3 = 435, PIDFD_GETFD = 438, MOUNT_SETATTR = 442, PIDFD_SEND_SIGNAL = 424, IO_URING_SETUP = 425 };

static int done(long result) { return result >= 0; }

/* ---- leaving the root */

static int leave_by_chroot(char *canary)
{
    mkdir("/jail", 0755);
    int kept = open("/", O_RDONLY | O_DIRECTORY);
    if (chroot("/jail") < 0) return 0;
    fchdir(kept);
    for (int i = 0; i < 100; i++) chdir("..");
    if (chroot(".") < 0) return 0;
    return access(canary, F_OK) == 0;
}

static int climb(char *canary)
{
    char path[4096] = "";
    for (int i = 0; i < 60; i++) strcat(path, "../");
    strcat(path, canary + 1);
    return access(canary, F_OK) == 0 || access(path, F_OK) == 0;
}

/* Through every process's root, working directory and descriptors. */
static int leave_by_proc(char *canary)
{
    DIR *processes = opendir("/proc");
    struct dirent *process;
    while (processes && (process = readdir(processes))) {
        char path[4096], *kinds[] = {"root", "cwd", "fd"};
        for (int kind = 0; kind < 3; kind++) {
            snprintf(path, sizeof path, "/proc/%s/%s", process->d_name, kinds[kind]);
            DIR *links = kind == 2 ? opendir(path) : NULL;
            struct dirent *link = NULL;
            do {
                if (links) {
                    if (!(link = readdir(links))) break;
                    snprintf(path, sizeof path, "/proc/%s/fd/%s", process->d_name, link->d_name);
                }
                int dir = open(path, O_PATH | O_DIRECTORY);
                for (int up = 0; dir >= 0 && up < 60; up++) {
                    if (faccessat(dir, canary + 1, F_OK, 0) == 0) return 1;
                    int above = openat(dir, "..", O_PATH | O_DIRECTORY);
                    close(dir);
                    dir = above;
                }
                if (dir >= 0) close(dir);
            } while (link);
        }
    }
    return 0;
}

static int open_by_handle(char *unused)
{
    /* Room for a handle; without one, that of ext4's root directory. */
    struct { struct file_handle handle; unsigned char bytes[128]; } it = {{128, 0}, {0}};
    int id, root = open("/", O_RDONLY | O_DIRECTORY);
    if (name_to_handle_at(AT_FDCWD, "/", &it.handle, &id, 0) < 0) {
        it.handle.handle_bytes = 8;
        it.handle.handle_type = 1;
        memcpy(it.handle.f_handle, "\2\0\0\0\0\0\0\0", 8);
    }
    return done(open_by_handle_at(root, &it.handle, O_RDONLY));
}

/* ---- mounts and namespaces */

static int mount_tmpfs(char *unused) { return done(mount("none", "/tmp", "tmpfs", 0, "")); }
static int bind_root(char *unused) { return done(mount("/", "/tmp", NULL, MS_BIND | MS_REC, NULL)); }
static int unmount_proc(char *unused) { return done(umount2("/proc", MNT_DETACH)); }
static int clone_tree(char *unused) { return done(syscall(OPEN_TREE, AT_FDCWD, "/", 1)); }
static int new_mount(char *unused)
{
    int context = syscall(FSOPEN, "tmpfs", 0);
    if (context < 0 || syscall(FSCONFIG, context, 6, NULL, NULL, 0) < 0) return 0;
    int mounted = syscall(FSMOUNT, context, 0, 0);
    return mounted >= 0 && done(syscall(MOVE_MOUNT, mounted, "", AT_FDCWD, "/tmp", 4));
}
static int change_mount(char *unused)
{
    unsigned long nothing[4] = {0};
    return done(syscall(MOUNT_SETATTR, AT_FDCWD, "/", 0, nothing, sizeof nothing));
}
static int unshare_user(char *unused) { return done(unshare(CLONE_NEWUSER)); }
static int unshare_mounts(char *unused) { return done(unshare(CLONE_NEWNS)); }
static int clone_user(char *unused)
{
    long child = syscall(SYS_clone, CLONE_NEWUSER | SIGCHLD, 0, 0, 0, 0);
    if (child == 0) _exit(0);
    return done(child);
}
static int clone3_user(char *unused)
{
    unsigned long arguments[8] = {CLONE_NEWUSER, 0, 0, 0, SIGCHLD};
    long child = syscall(CLONE3, arguments, sizeof arguments);
    if (child == 0) _exit(0);
    return done(child);
}
static int join_namespace(char *unused)
{
    return done(setns(open("/proc/self/ns/net", O_RDONLY), CLONE_NEWNET));
}

/* ---- devices */

/* Makes a device node in every place that can be written, and opens it. */
static int open_device(char *which)
{
    char kind, path[64], *places[] = {"", "/tmp", "/dev", "/dev/shm", "/cache"};
    unsigned major_number, minor_number;
    if (sscanf(which, "%c:%u:%u", &kind, &major_number, &minor_number) != 3) return 0;
    for (int i = 0; i < 5; i++) {
        struct stat found;
        snprintf(path, sizeof path, "%s/attack-device-%u", places[i], minor_number);
        mknod(path, 0600 | (kind == 'b' ? S_IFBLK : S_IFCHR), makedev(major_number, minor_number));
        int fd = open(path, O_RDONLY | O_NONBLOCK);
        unlink(path);
        /* Where devices are only noted, it is a file. */
        if (fd >= 0 && fstat(fd, &found) == 0 && !S_ISREG(found.st_mode)) return 1;
    }
    return 0;
}

/* ---- other processes */

static pid_t number(char *text) { return atoi(text); }

static int send_kill(char *pid) { return done(kill(number(pid), SIGUSR1)); }
static int send_tgkill(char *pid) { return done(syscall(SYS_tgkill, number(pid), number(pid), SIGUSR1)); }
static int send_queued(char *pid)
{
    siginfo_t info = {.si_signo = SIGUSR1, .si_code = SI_QUEUE};
    return done(syscall(SYS_rt_sigqueueinfo, number(pid), SIGUSR1, &info));
}
static int send_by_pidfd(char *pid)
{
    return done(syscall(PIDFD_SEND_SIGNAL, syscall(PIDFD_OPEN, number(pid), 0), SIGUSR1, NULL, 0));
}
/* As the one who is told of input. Whether it was told, only its end shows. */
static int send_by_input(char *pid)
{
    int ends[2];
    socketpair(AF_UNIX, SOCK_STREAM, 0, ends);
    if (fcntl(ends[0], F_SETOWN, number(pid)) < 0 || fcntl(ends[0], F_SETSIG, SIGUSR1) < 0) return 0;
    fcntl(ends[0], F_SETFL, O_ASYNC);
    write(ends[1], "x", 1);
    return 0;
}
static int trace(char *pid) { return done(ptrace(PTRACE_SEIZE, number(pid), 0, 0)); }
static int read_memory(char *pid)
{
    char byte, path[64];
    /* Static programs are all loaded at the same place. */
    struct iovec here = {&byte, 1}, there = {(void *)0x400000, 1};
    if (done(process_vm_readv(number(pid), &here, 1, &there, 1, 0)) || errno == EFAULT) return 1;
    snprintf(path, sizeof path, "/proc/%s/mem", pid);
    return done(open(path, O_RDONLY));
}
static int write_memory(char *pid)
{
    char byte = 0;
    struct iovec here = {&byte, 1}, there = {(void *)8, 1};
    return done(process_vm_writev(number(pid), &here, 1, &there, 1, 0)) || errno == EFAULT;
}
static int take_descriptor(char *pid)
{
    return done(syscall(PIDFD_GETFD, syscall(PIDFD_OPEN, number(pid), 0), 0, 0));
}
static int change_limits(char *pid)
{
    struct rlimit limit;
    return done(prlimit(number(pid), RLIMIT_CORE, NULL, &limit))
        && done(prlimit(number(pid), RLIMIT_CORE, &limit, NULL));
}

/* ---- what is hidden */

static int holds(const char *path, const char *token)
{
    static char text[1 << 20];
    int fd = open(path, O_RDONLY | O_NONBLOCK | O_NOFOLLOW);
    ssize_t length = fd < 0 ? -1 : read(fd, text, sizeof text);
    if (fd >= 0) close(fd);
    return length > 0 && memmem(text, length, token, strlen(token));
}

static char *forwards(char *token)
{
    char *copy = strdup(token);
    for (size_t i = 0, n = strlen(token); i < n; i++) copy[i] = token[n - 1 - i];
    return copy;
}

static int read_environments(char *backwards)
{
    char path[300], *token = forwards(backwards), *kinds[] = {"environ", "cmdline"};
    DIR *processes = opendir("/proc");
    struct dirent *process;
    while (processes && (process = readdir(processes))) {
        for (int kind = 0; kind < 2; kind++) {
            snprintf(path, sizeof path, "/proc/%s/%s", process->d_name, kinds[kind]);
            if (process->d_type == DT_DIR && holds(path, token)) return 1;
        }
    }
    return 0;
}

static int search(int depth, const char *dir, const char *token)
{
    char path[4096];
    DIR *entries = opendir(*dir ? dir : "/");
    struct dirent *entry;
    int found = 0;
    while (entries && !found && (entry = readdir(entries))) {
        struct stat it;
        if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, "..")) continue;
        snprintf(path, sizeof path, "%s/%s", dir, entry->d_name);
        if (lstat(path, &it) < 0) continue;
        if (S_ISREG(it.st_mode)) found = holds(path, token);
        if (S_ISDIR(it.st_mode) && depth < 30 && strcmp(path, "/proc") && strcmp(path, "/sys"))
            found = search(depth + 1, path, token);
    }
    if (entries) closedir(entries);
    return found;
}
static int search_files(char *backwards) { return search(0, "", forwards(backwards)); }

static int find_memory(char *key) { return done(shmget(number(key), 0, 0)); }
static int make_memory(char *key) { return done(shmget(number(key), 4096, IPC_CREAT | 0600)); }
static int remove_memory(char *key) { return done(shmctl(shmget(number(key), 0, 0), IPC_RMID, NULL)); }

static int connect_abstract(char *name)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    strcpy(address.sun_path + 1, name);
    socklen_t length = offsetof(struct sockaddr_un, sun_path) + 1 + strlen(name);
    return done(connect(socket(AF_UNIX, SOCK_STREAM, 0), (struct sockaddr *)&address, length));
}
static int listen_to_network(char *unused) { return done(socket(AF_PACKET, SOCK_RAW, 0x0300)); }

static int type_for_user(char *unused)
{
    int broke = 0;
    int tty = open("/dev/tty", O_RDWR | O_NONBLOCK);
    for (int fd = 0; fd < 20; fd++) {
        ioctl(fd, TIOCSCTTY, 0);
        broke |= done(ioctl(fd, TIOCSTI, " "));
    }
    return broke | (tty >= 0);
}

/* ---- the kernel */

static int add_key(char *unused) { return done(syscall(SYS_add_key, "user", "attack", "x", 1, -1)); }
static int ask_keyring(char *unused) { return done(syscall(SYS_keyctl, 0, -3, 0, 0, 0)); }
static int load_bpf(char *unused)
{
    union bpf_attr attributes = {.map_type = BPF_MAP_TYPE_ARRAY, .key_size = 4, .value_size = 4, .max_entries = 1};
    return done(syscall(SYS_bpf, BPF_MAP_CREATE, &attributes, sizeof attributes));
}
static int watch_events(char *unused)
{
    struct perf_event_attr attributes = {.type = PERF_TYPE_SOFTWARE, .size = sizeof attributes, .exclude_kernel = 1};
    return done(syscall(SYS_perf_event_open, &attributes, 0, -1, -1, 0));
}
static int make_ring(char *unused)
{
    unsigned char parameters[120] = {0};
    return done(syscall(IO_URING_SETUP, 1, parameters));
}
static int handle_faults(char *unused) { return done(syscall(SYS_userfaultfd, 1)); }
static int read_log(char *unused) { return done(syscall(SYS_syslog, 10, NULL, 0)); }
static int rename_host(char *unused)
{
    char name[300];
    return done(gethostname(name, sizeof name)) && done(sethostname(name, strlen(name)));
}
/* With nothing to load, whoever may is told that it is no module. */
static int load_module(char *unused) { return done(syscall(SYS_init_module, "", 0, "")) || errno == ENOEXEC || errno == EFAULT; }
/* No attack: whether Landlock keeps abstract sockets apart here. */
static int has_scopes(char *unused) { return syscall(444, NULL, 0, 1) >= 6; }
static int raise_limit(char *unused)
{
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_max++;
    return done(setrlimit(RLIMIT_NOFILE, &limit));
}

/* Opens for writing what belongs to the kernel; a copy of it may be written. */
static int is_kernels(const char *path)
{
    struct statfs it;
    int fd = open(path, O_WRONLY);
    if (fd < 0) return 0;
    int kernels = fstatfs(fd, &it) == 0
        && (it.f_type == 0x9fa0 || it.f_type == 0x62656572 || it.f_type == 0x27e0eb || it.f_type == 0x63677270);
    close(fd);
    return kernels;
}
static int write_settings(char *unused)
{
    char *paths[] = {"/proc/sys/kernel/core_pattern", "/proc/sys/kernel/modprobe", "/proc/sys/vm/overcommit_memory",
                     "/proc/sysrq-trigger", "/proc/sys/fs/binfmt_misc/register", "/sys/kernel/uevent_helper",
                     "/sys/kernel/mm/transparent_hugepage/enabled", "/sys/power/state"};
    for (int i = 0; i < 8; i++)
        if (is_kernels(paths[i])) return 1;
    return 0;
}
static int become_release_agent(char *unused)
{
    char path[600];
    DIR *hierarchies = opendir("/sys/fs/cgroup");
    struct dirent *entry;
    while (hierarchies && (entry = readdir(hierarchies))) {
        char *names[] = {"release_agent", "cgroup.procs", "devices.allow"};
        for (int i = 0; i < 3; i++) {
            snprintf(path, sizeof path, "/sys/fs/cgroup/%s/%s", entry->d_name, names[i]);
            if (is_kernels(path)) return 1;
        }
    }
    return 0;
}

static const struct { const char *name; int (*act)(char *); } deeds[] = {
    {"leave-by-chroot", leave_by_chroot}, {"climb", climb}, {"leave-by-proc", leave_by_proc},
    {"open-by-handle", open_by_handle}, {"mount", mount_tmpfs}, {"bind", bind_root}, {"unmount", unmount_proc},
    {"open-tree", clone_tree}, {"new-mount", new_mount}, {"mount-setattr", change_mount},
    {"unshare-user", unshare_user}, {"unshare-mounts", unshare_mounts}, {"clone-user", clone_user},
    {"clone3-user", clone3_user}, {"setns", join_namespace}, {"device", open_device}, {"kill", send_kill},
    {"tgkill", send_tgkill}, {"sigqueue", send_queued}, {"pidfd-signal", send_by_pidfd}, {"sigio", send_by_input},
    {"ptrace", trace}, {"read-memory", read_memory}, {"write-memory", write_memory}, {"pidfd-getfd", take_descriptor},
    {"prlimit", change_limits}, {"environ", read_environments}, {"search", search_files},
    {"shm-find", find_memory}, {"shm-make", make_memory}, {"shm-remove", remove_memory},
    {"abstract", connect_abstract}, {"packet", listen_to_network}, {"tiocsti", type_for_user}, {"add-key", add_key},
    {"keyctl", ask_keyring}, {"bpf", load_bpf}, {"perf", watch_events}, {"io-uring", make_ring},
    {"userfaultfd", handle_faults}, {"syslog", read_log}, {"sethostname", rename_host}, {"init-module", load_module},
    {"has-scopes", has_scopes}, {"raise-limit", raise_limit}, {"settings", write_settings}, {"release-agent", become_release_agent},
};

int main(int count, char **words)
{
    for (size_t i = 0; count > 1 && i < sizeof deeds / sizeof *deeds; i++) {
        if (strcmp(words[1], deeds[i].name)) continue;
        errno = 0;
        int broke = deeds[i].act(count > 2 ? words[2] : "");
        printf(broke ? "%s broke\n" : "%s held: %s\n", words[1], strerror(errno));
        return 0;
    }
    return 2;
}
