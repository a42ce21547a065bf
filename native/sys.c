#include "sys.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

/* These numbers are the same on every architecture: https://docs.kernel.org/process/adding-syscalls.html */
#define NR_PIDFD_SEND_SIGNAL 424
#define NR_PIDFD_OPEN 434
#define NR_OPEN_TREE 428
#define NR_MOVE_MOUNT 429
#define NR_CLOSE_RANGE 436
#define NR_OPENAT2 437
#define NR_MOUNT_SETATTR 442
#define RESOLVE_PLAIN 6u /* RESOLVE_NO_MAGICLINKS and RESOLVE_NO_SYMLINKS of linux/openat2.h */

struct mount_attributes {
    uint64_t set, clear, propagation, userns;
};

int sys_open_tree(int dirfd, const char *path, unsigned flags)
{
    return (int)syscall(NR_OPEN_TREE, dirfd, path, flags | O_CLOEXEC);
}

int sys_move_mount(int from, int to)
{
    return (int)syscall(NR_MOVE_MOUNT, from, "", to, "", SYS_MOVE_F_EMPTY | SYS_MOVE_T_EMPTY);
}

int sys_mount_setattr(int fd, unsigned at_flags, uint64_t set)
{
    struct mount_attributes attributes = {.set = set};
    return (int)syscall(NR_MOUNT_SETATTR, fd, "", AT_EMPTY_PATH | at_flags, &attributes, sizeof attributes);
}

int sys_mount_idmap(int fd, unsigned at_flags, int userns)
{
    struct mount_attributes attributes = {.set = SYS_ATTR_IDMAP, .userns = (uint64_t)userns};
    return (int)syscall(NR_MOUNT_SETATTR, fd, "", AT_EMPTY_PATH | at_flags, &attributes, sizeof attributes);
}

int sys_open_plain(const char *path, int flags)
{
    struct {
        uint64_t flags, mode, resolve;
    } how = {.flags = (uint64_t)flags, .resolve = RESOLVE_PLAIN};
    return (int)syscall(NR_OPENAT2, AT_FDCWD, path, &how, sizeof how);
}

int sys_pidfd_open(pid_t pid)
{
    return (int)syscall(NR_PIDFD_OPEN, pid, 0); /* is CLOEXEC by itself */
}

int sys_pidfd_signal(int pidfd, int signum)
{
    return (int)syscall(NR_PIDFD_SEND_SIGNAL, pidfd, signum, NULL, 0);
}

void sys_close_from(int first)
{
    if (syscall(NR_CLOSE_RANGE, (unsigned)first, ~0u, 0u) == 0)
        return;
    /* Before Linux 5.9. The usual soft limit bounds what anybody has open. */
    for (int fd = first; fd < 4096; fd++)
        close(fd);
}

static uint64_t clock_ns(clockid_t clock)
{
    struct timespec now = {0};
    clock_gettime(clock, &now);
    return (uint64_t)now.tv_sec * 1000000000ull + (uint64_t)now.tv_nsec;
}

uint64_t sys_realtime(void)
{
    return clock_ns(CLOCK_REALTIME);
}

uint64_t sys_boottime(void)
{
    return clock_ns(CLOCK_BOOTTIME);
}

uint64_t sys_start_time(void)
{
    char stat[1024];
    if (sys_read_file(AT_FDCWD, "/proc/self/stat", stat, sizeof stat) <= 0)
        return 0;
    /* The second field is the name in brackets and may hold anything: count from the last bracket. */
    char *at = strrchr(stat, ')');
    if (at == NULL)
        return 0;
    for (int field = 2; field < 22; field++) {
        at = strchr(at + 1, ' ');
        if (at == NULL)
            return 0;
    }
    uint64_t ticks = 0;
    for (at++; *at >= '0' && *at <= '9'; at++)
        ticks = ticks * 10 + (uint64_t)(*at - '0');
    return ticks;
}

pid_t sys_parent(pid_t pid)
{
    char stat[1024], path[32];
    snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    if (sys_read_file(AT_FDCWD, path, stat, sizeof stat) <= 0)
        return 0;
    char *at = strrchr(stat, ')'); /* state and parent follow */
    return at != NULL && strlen(at) > 4 ? (pid_t)strtol(at + 4, NULL, 10) : 0;
}

ssize_t sys_read_file(int dirfd, const char *path, char *buffer, size_t size)
{
    int fd = openat(dirfd, path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (fd < 0)
        return -1;
    size_t have = 0;
    while (have < size - 1) {
        ssize_t got = read(fd, buffer + have, size - 1 - have);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0) {
            int error = errno;
            close(fd);
            errno = error;
            return -1;
        }
        if (got == 0)
            break;
        have += (size_t)got;
    }
    close(fd);
    buffer[have] = 0;
    return (ssize_t)have;
}

int sys_write_file(const char *path, const char *text, size_t length)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return -1;
    ssize_t wrote = write(fd, text, length);
    int error = errno;
    close(fd);
    errno = error;
    return wrote == (ssize_t)length ? 0 : -1;
}

int sys_write_all(int fd, const void *data, size_t length)
{
    const char *at = data;
    while (length > 0) {
        ssize_t wrote = write(fd, at, length);
        if (wrote < 0 && errno == EINTR)
            continue;
        if (wrote <= 0)
            return -1;
        at += wrote;
        length -= (size_t)wrote;
    }
    return 0;
}

int sys_move_fd(int fd, int least)
{
    int moved = fcntl(fd, F_DUPFD_CLOEXEC, least);
    if (moved >= 0)
        close(fd);
    return moved;
}

void sys_hush(int first, int last)
{
    int nothing = open("/dev/null", O_RDWR | O_CLOEXEC);
    for (int fd = first; fd <= last; fd++)
        if (nothing < 0 || dup2(nothing, fd) < 0)
            close(fd);
    if (nothing > last)
        close(nothing);
}

int sys_sync_folder(int folder)
{
    int fd = openat(folder, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return -1;
    int result = fsync(fd), error = errno;
    close(fd);
    errno = error;
    return result;
}
