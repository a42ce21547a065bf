/* System calls that libc does not wrap, and the few that every file here needs. */
#ifndef DMS_SYS_H
#define DMS_SYS_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* https://docs.kernel.org/filesystems/mount_api.html and include/uapi/linux/mount.h. They are spelled out because
 * linux/mount.h and sys/mount.h cannot both be included with every libc. */
#define SYS_OPEN_TREE_CLONE 1u
#define SYS_AT_RECURSIVE 0x8000u
#define SYS_MOVE_F_EMPTY 0x4u
#define SYS_MOVE_T_EMPTY 0x40u
#define SYS_ATTR_RDONLY 0x1ull
#define SYS_ATTR_NOSUID 0x2ull
#define SYS_ATTR_NODEV 0x4ull
#define SYS_ATTR_IDMAP 0x100000ull

int sys_open_tree(int dirfd, const char *path, unsigned flags);
int sys_move_mount(int from, int to);
int sys_mount_setattr(int fd, unsigned at_flags, uint64_t set);
int sys_mount_idmap(int fd, unsigned at_flags, int userns);

/* No part of the path may be a symbolic link: https://man7.org/linux/man-pages/man2/openat2.2.html */
int sys_open_plain(const char *path, int flags);

int sys_pidfd_open(pid_t pid);
int sys_pidfd_signal(int pidfd, int signum);

/* Closes every descriptor from `first` up: what a caller left inheritable must not live as long as the job. */
void sys_close_from(int first);

uint64_t sys_realtime(void);      /* ns since the epoch */
uint64_t sys_boottime(void);      /* ns, counts while the host sleeps */
uint64_t sys_start_time(void);    /* field 22 of /proc/self/stat, 0 if unknown */
pid_t sys_parent(pid_t pid);      /* 0 if unknown */

/* At most `size` - 1 bytes of a file, NUL-terminated. Bytes read, or -1. */
ssize_t sys_read_file(int dirfd, const char *path, char *buffer, size_t size);
int sys_write_file(const char *path, const char *text, size_t length);
int sys_write_all(int fd, const void *data, size_t length);

/* The same descriptor at `least` or above, CLOEXEC. */
int sys_move_fd(int fd, int least);

/* Puts /dev/null in the place of descriptors, of which nothing is to be held any more. */
int sys_sync_folder(int folder); /* its entries, also of one that is open as a path only; 0, or -1 with errno */
void sys_hush(int first, int last);

#endif
