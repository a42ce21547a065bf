#include "mounts.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "loopdev.h"
#include "sys.h"

#define NOBODY 65534 /* /proc/sys/kernel/overflowuid: who has no id in this user namespace */

/* A mount of the namespace that we came from cannot be bound in ours: the same place is opened once more, by its path,
 * and must be the same file. */
static int reopen(int *fd)
{
    char link[40], path[PATH_MAX];
    struct stat before, after;
    snprintf(link, sizeof link, "/proc/self/fd/%d", *fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0)
        return -1;
    path[length] = 0;
    int again = sys_open_plain(path, O_PATH | O_CLOEXEC | O_NOFOLLOW);
    if (again < 0)
        return -1;
    if (fstat(*fd, &before) != 0 || fstat(again, &after) != 0 || before.st_dev != after.st_dev ||
        before.st_ino != after.st_ino) {
        close(again);
        errno = ESTALE;
        return -1;
    }
    close(*fd);
    *fd = again;
    return 0;
}

int mounts_reopen(struct config *config, char *what, size_t size)
{
    for (size_t i = 0; i < config->mount_count; i++) {
        struct mount_entry *entry = &config->mounts[i];
        bool has_source = entry->kind == MOUNT_BIND || (entry->kind == MOUNT_DEVICE && entry->fd >= 0);
        if (has_source && reopen(&entry->fd) != 0) {
            snprintf(what, size, "cannot open %s once more", entry->target);
            return -1;
        }
    }
    int flags = config->stdin_fd >= 0 ? fcntl(config->stdin_fd, F_GETFL) : 0;
    if (flags & O_PATH && reopen(&config->stdin_fd) != 0) {
        snprintf(what, size, "cannot open stdin once more");
        return -1;
    }
    return 0;
}

bool mounts_wanted(const struct config *config)
{
    return config->room != NULL || config->umount_count > 0;
}

int mounts_clone(struct config *config, int userns, char *what, size_t size)
{
    for (size_t i = 0; i < config->mount_count; i++) {
        struct mount_entry *entry = &config->mounts[i];
        if (entry->kind != MOUNT_BIND && (entry->kind != MOUNT_DEVICE || entry->fd < 0))
            continue;
        unsigned recursive = entry->flags & BIND_RECURSIVE ? SYS_AT_RECURSIVE : 0;
        uint64_t set = (entry->flags & BIND_READ_ONLY ? SYS_ATTR_RDONLY : 0) |
                       (entry->flags & BIND_RESTRICTED ? SYS_ATTR_NOSUID | SYS_ATTR_NODEV : 0);
        int tree = sys_open_tree(entry->fd, "", AT_EMPTY_PATH | SYS_OPEN_TREE_CLONE | recursive);
        if (tree < 0 || (set != 0 && sys_mount_setattr(tree, recursive, set) != 0)) {
            snprintf(what, size, "cannot bind %s", entry->target);
            return -1;
        }
        if (entry->flags & BIND_IDMAPPED && sys_mount_idmap(tree, recursive, userns) != 0) {
            snprintf(what, size, "cannot id-map %s", entry->target);
            return -1;
        }
        close(entry->fd);
        entry->fd = tree;
    }
    return 0;
}

int mounts_stdin(struct config *config, int userns, char *what, size_t size)
{
    /* crun gives the job's streams to the job's ids: the host's own /dev/null must not be among them, and on a read-only
     * mount nothing is given away. */
    bool nothing = config->stdin_fd < 0 && userns >= 0 && config->input != INPUT_PIPE;
    if (nothing && (config->stdin_fd = open("/dev/null", O_PATH | O_CLOEXEC)) < 0) {
        snprintf(what, size, "cannot open stdin");
        return -1;
    }
    int flags = config->stdin_fd >= 0 ? fcntl(config->stdin_fd, F_GETFL) : 0;
    if (flags < 0 || !(flags & O_PATH))
        return 0;
    char path[40];
    struct stat status;
    int fd = -1, tree = sys_open_tree(config->stdin_fd, "", AT_EMPTY_PATH | SYS_OPEN_TREE_CLONE);
    /* Id-mapped where its owner has an id in the job, so that the job's root may open /dev/stdin once more; where the
     * file system has no id-mapped mounts, only that is lost. */
    if (tree >= 0 && userns >= 0 && !nothing && fstat(tree, &status) == 0 && status.st_uid < config->idmap.count &&
        status.st_gid < config->idmap.count)
        sys_mount_idmap(tree, 0, userns);
    uint64_t set = SYS_ATTR_RDONLY | SYS_ATTR_NOSUID | (nothing ? 0 : SYS_ATTR_NODEV);
    if (tree >= 0 && sys_mount_setattr(tree, 0, set) == 0) {
        snprintf(path, sizeof path, "/proc/self/fd/%d", tree);
        fd = open(path, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
    }
    int error = errno;
    if (tree >= 0)
        close(tree);
    if (fd < 0) {
        snprintf(what, size, "cannot open stdin");
        errno = error;
        return -1;
    }
    fcntl(fd, F_SETFL, 0);
    close(config->stdin_fd);
    config->stdin_fd = fd;
    return 0;
}

/* Opens (and makes) a path in the room, one component at a time and never through a symbolic link: part of it may lie
 * in a folder that a job could write to. `file`: the last component is an empty file. */
static int open_target(int room, const char *path, bool make, bool file)
{
    int at = fcntl(room, F_DUPFD_CLOEXEC, 3);
    char part[256];
    while (at >= 0 && *path != 0) {
        size_t length = strcspn(path, "/");
        bool last = path[length] == 0;
        if (length == 0 || length >= sizeof part || (length == 1 && path[0] == '.') ||
            (length == 2 && path[0] == '.' && path[1] == '.')) {
            close(at);
            errno = EINVAL;
            return -1;
        }
        memcpy(part, path, length);
        part[length] = 0;
        path += length + (last ? 0 : 1);
        int made = 0;
        if (make && last && file) {
            made = openat(at, part, O_WRONLY | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0644);
            if (made >= 0)
                close(made);
        } else if (make && mkdirat(at, part, 0755) != 0 && errno != EEXIST) {
            made = -1;
        }
        int next = made < 0 ? -1 : openat(at, part, O_PATH | O_NOFOLLOW | O_CLOEXEC | (last && file ? 0 : O_DIRECTORY));
        int error = errno;
        close(at);
        errno = error;
        at = next;
    }
    return at;
}

static int move_bind(int room, const struct mount_entry *entry)
{
    struct stat status;
    if (fstat(entry->fd, &status) != 0)
        return -1;
    int target = open_target(room, entry->target, true, !S_ISDIR(status.st_mode));
    if (target < 0)
        return -1;
    int result = sys_move_mount(entry->fd, target);
    int error = errno;
    close(target);
    close(entry->fd);
    errno = error;
    return result;
}

/* An overlay shows the owner of its upper layer. One who has no id in here stays out of it: root it is, then. */
static int give_as(int lower, int upper)
{
    struct stat status;
    if (fstat(lower, &status) != 0)
        return -1;
    if ((status.st_uid == 0 && status.st_gid == 0) || status.st_uid == NOBODY || status.st_gid == NOBODY)
        return 0;
    return fchownat(upper, "", status.st_uid, status.st_gid, AT_EMPTY_PATH);
}

/* Layers go by descriptor: paths would need the overlay's own quoting of commas and colons
 * (https://docs.kernel.org/filesystems/overlayfs.html). */
static int mount_overlay(int room, const struct mount_entry *entry, const struct idmap *idmap, bool is_ours)
{
    int fds[4];
    const char *paths[4] = {entry->target, entry->lower, entry->upper, entry->work};
    char options[160], target[40];
    int result = 0;
    for (int i = 0; i < 4; i++) {
        fds[i] = result == 0 ? open_target(room, paths[i], i == 0, false) : -1;
        result = fds[i] < 0 ? -1 : 0;
    }
    if (result == 0 && idmap->count > 0)
        result = idmap_take(idmap, fds[2]);
    else if (result == 0 && is_ours)
        result = give_as(fds[1], fds[2]);
    if (result == 0) {
        snprintf(options, sizeof options, "lowerdir=/proc/self/fd/%d,upperdir=/proc/self/fd/%d,workdir=/proc/self/fd/%d%s",
                 fds[1], fds[2], fds[3], is_ours ? ",userxattr" : "");
        snprintf(target, sizeof target, "/proc/self/fd/%d", fds[0]);
        result = mount("overlay", target, "overlay", 0, options);
    }
    int error = errno;
    for (int i = 0; i < 4; i++)
        if (fds[i] >= 0)
            close(fds[i]);
    errno = error;
    return result;
}

static int mount_loop(int room, const struct mount_entry *entry)
{
    char device[32], target[40];
    int fd = open_target(room, entry->target, true, false);
    if (fd < 0)
        return -1;
    int loop = loopdev_attach(entry->fd, device, sizeof device);
    int result = -1;
    if (loop >= 0) {
        snprintf(target, sizeof target, "/proc/self/fd/%d", fd);
        result = mount(device, target, "ext4", MS_NOSUID | MS_NODEV, NULL);
    }
    int error = errno;
    if (loop >= 0)
        close(loop);
    close(fd);
    close(entry->fd);
    errno = error;
    return result;
}

static int make_device(int room, const struct mount_entry *entry, const struct idmap *idmap)
{
    int result = devnode_make(room, entry->target, &entry->node, entry->fd, idmap);
    int error = errno;
    if (entry->fd >= 0)
        close(entry->fd);
    errno = error;
    return result;
}

static int fill_room(struct config *config, char *what, size_t size)
{
    if (mount("tmpfs", config->room, "tmpfs", MS_NOSUID | MS_NODEV, "mode=0711") != 0) {
        snprintf(what, size, "cannot mount a tmpfs on %s", config->room);
        return -1;
    }
    int room = open(config->room, O_PATH | O_DIRECTORY | O_CLOEXEC);
    int result = room < 0 ? -1 : 0;
    if (room < 0)
        snprintf(what, size, "cannot open %s", config->room);
    for (size_t i = 0; i < config->mount_count && result == 0; i++) {
        const struct mount_entry *entry = &config->mounts[i];
        if (entry->kind == MOUNT_BIND)
            result = move_bind(room, entry);
        else if (entry->kind == MOUNT_OVERLAY)
            result = mount_overlay(room, entry, &config->idmap, config->userns.newuidmap != NULL);
        else if (entry->kind == MOUNT_DEVICE)
            result = make_device(room, entry, &config->idmap);
        else
            result = mount_loop(room, entry);
        if (result != 0)
            snprintf(what, size, "cannot mount %s", entry->target);
    }
    int error = errno;
    if (room >= 0)
        close(room);
    errno = error;
    return result;
}

int mounts_enter(struct config *config, char *what, size_t size)
{
    /* Slave and not private: what the host unmounts must go here, too, or its disks stay busy until the job's end
     * (https://docs.kernel.org/filesystems/sharedsubtree.html). */
    bool ours = config->userns.newuidmap != NULL; /* then we are in one already, which our user namespace owns */
    if ((!ours && unshare(CLONE_NEWNS) != 0) || mount(NULL, "/", NULL, MS_SLAVE | MS_REC, NULL) != 0) {
        snprintf(what, size, "cannot make a mount namespace");
        return -1;
    }
    for (size_t i = 0; i < config->umount_count; i++) {
        /* What is made beneath the place from now on must not land on the host's file system there. */
        /* What came with our own user namespace can be covered only. */
        if ((ours || umount2(config->umounts[i], MNT_DETACH) == 0) &&
            mount("tmpfs", config->umounts[i], "tmpfs", MS_NOSUID | MS_NODEV, "size=1m,mode=0755") == 0)
            continue;
        snprintf(what, size, "cannot unmount %s", config->umounts[i]);
        return -1;
    }
    if (config->room == NULL)
        return 0;
    /* The folders of the room are to be walked through by a user namespace's root, too. */
    mode_t old = umask(0022);
    int result = fill_room(config, what, size);
    umask(old);
    return result;
}
