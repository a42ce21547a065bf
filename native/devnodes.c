#include "devnodes.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "sys.h"

/* The first one mounts it. */
static int open_folder(int room)
{
    char path[40];
    int made = mkdirat(room, "dev", 0755);
    if (made != 0 && errno != EEXIST)
        return -1;
    int folder = openat(room, "dev", O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (folder < 0 || made != 0)
        return folder;
    snprintf(path, sizeof path, "/proc/self/fd/%d", folder);
    int result = mount("tmpfs", path, "tmpfs", MS_NOSUID | MS_NOEXEC, "size=64k,mode=0755");
    int error = errno;
    close(folder);
    errno = error;
    return result != 0 ? -1 : openat(room, "dev", O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
}

static int make(int folder, const char *name, const struct devnode *node, const struct idmap *idmap)
{
    if (mknodat(folder, name, node->mode, makedev(node->major, node->minor)) != 0)
        return -1;
    uid_t uid = idmap->count > 0 ? idmap->first + node->uid % idmap->count : node->uid;
    gid_t gid = idmap->count > 0 ? idmap->first + node->gid % idmap->count : node->gid;
    if (fchownat(folder, name, uid, gid, AT_SYMLINK_NOFOLLOW) != 0)
        return -1;
    return fchmodat(folder, name, node->mode & 0777, 0);
}

static int bind(int folder, const char *name, int tree)
{
    int fd = openat(folder, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0644);
    if (fd >= 0)
        close(fd);
    int target = fd < 0 ? -1 : openat(folder, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
    if (target < 0)
        return -1;
    int result = sys_move_mount(tree, target);
    int error = errno;
    close(target);
    errno = error;
    return result;
}

int devnode_make(int room, const char *name, const struct devnode *node, int tree, const struct idmap *idmap)
{
    int folder = open_folder(room);
    if (folder < 0)
        return -1;
    int result = make(folder, name, node, idmap);
    if (result != 0 && errno == EPERM && tree >= 0)
        result = bind(folder, name, tree);
    int error = errno;
    close(folder);
    errno = error;
    return result;
}
