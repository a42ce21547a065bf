/* `dms-shim pack [-j] [-L] NAME PATH`: a file or a tree as a tar stream on descriptor 1, its entries named NAME/...
 *
 * The tree may be a stranger's who changes it meanwhile: each step goes from an opened folder to a name in it, never
 * through a symbolic link, and memory grows with the depth only. */
#include "modes.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "extents.h"
#include "files.h"
#include "links.h"
#include "tar.h"

#define OPEN_MAX_LEVELS 64u /* folders that are open at once, however deep the tree is */
#define COPY 131072u

struct level {
    DIR *dir; /* NULL: closed for a while, to go on at `position` */
    long position;
    dev_t device;
    ino_t inode;
    size_t path_length;
};

static struct level *levels;
static size_t depth, level_room;
static char *path, *target;
static uint64_t left_out, shrunk;
static char *first_left_out, *first_shrunk;

static void count(uint64_t *counter, char **first)
{
    if ((*counter)++ == 0)
        *first = strdup(path);
}

/* Whose content is the kernel's, made as it is read: a copy of it would mean nothing. linux/magic.h */
static bool is_kernels(int fd)
{
    static const unsigned long magic[] = {
        0x9fa0,     /* proc */
        0x62656572, /* sysfs */
        0x27e0eb,   /* cgroup */
        0x63677270, /* cgroup2 */
        0x1cd1,     /* devpts */
        0x19800202, /* mqueue */
        0x64626720, /* debugfs */
        0x74726163, /* tracefs */
        0x73636673, /* securityfs */
    };
    struct statfs status;
    if (fstatfs(fd, &status) != 0)
        return false;
    for (size_t i = 0; i < sizeof magic / sizeof *magic; i++)
        if ((unsigned long)status.f_type == magic[i])
            return true;
    return false;
}

static struct tar_entry entry_of(const struct stat *status, enum tar_type type)
{
    return (struct tar_entry){
        .type = type,
        .mode = status->st_mode & 07777,
        .uid = status->st_uid,
        .gid = status->st_gid,
        .seconds = status->st_mtim.tv_sec,
        .nanoseconds = (uint32_t)status->st_mtim.tv_nsec,
        .path = path,
    };
}

static void emit(const struct tar_entry *entry)
{
    if (tar_write_entry(entry) != 0)
        files_die(path);
}

/* A file that got shorter meanwhile is filled up: its length has been said. */
static void send_part(int fd, uint64_t offset, uint64_t length, bool *short_of)
{
    static uint8_t buffer[COPY];
    while (length > 0) {
        size_t part = length < sizeof buffer ? (size_t)length : sizeof buffer;
        ssize_t got = *short_of ? 0 : pread(fd, buffer, part, (off_t)offset);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            files_die(path);
        if (got == 0) {
            memset(buffer, 0, part);
            got = (ssize_t)part;
            *short_of = true;
        }
        if (tar_write(buffer, (size_t)got) != 0)
            files_die(path);
        offset += (uint64_t)got;
        length -= (uint64_t)got;
    }
}

static void send_sparse(int fd, struct tar_entry *entry)
{
    struct extents extents = {0};
    bool short_of = false;
    if (extents_of(fd, entry->real_size, &extents) != 0)
        files_die(path);
    uint64_t map = extents_map_size(&extents);
    entry->sparse = true;
    entry->size = map + extents.data;
    emit(entry);
    if (extents_write(&extents) != 0)
        files_die(path);
    for (size_t i = 0; i < extents.count; i++)
        send_part(fd, extents.list[i].offset, extents.list[i].length, &short_of);
    if (tar_write_padding(entry->size) != 0)
        files_die(path);
    free(extents.list);
    if (short_of)
        count(&shrunk, &first_shrunk);
}

static void send_file(int fd, const struct stat *status)
{
    struct tar_entry entry = entry_of(status, TAR_FILE);
    bool short_of = false;
    if (status->st_nlink > 1 && (entry.link = links_met(status->st_dev, status->st_ino, path)) != NULL) {
        entry.type = TAR_HARD_LINK;
        emit(&entry);
        return;
    }
    /* Only what is there now: one that grows for ever would never be done. */
    entry.size = entry.real_size = (uint64_t)status->st_size;
    if ((uint64_t)status->st_blocks * 512 < entry.size) {
        send_sparse(fd, &entry);
        return;
    }
    emit(&entry);
    send_part(fd, 0, entry.size, &short_of);
    if (tar_write_padding(entry.size) != 0)
        files_die(path);
    if (short_of)
        count(&shrunk, &first_shrunk);
}

static void send_symlink(int folder, const char *name, const struct stat *status)
{
    struct tar_entry entry = entry_of(status, TAR_SYMLINK);
    ssize_t length = readlinkat(folder, name, target, TAR_TEXT_MAX);
    if (length < 0) {
        if (errno == ENOENT || errno == EINVAL)
            return; /* gone, or something else by now */
        files_die(path);
    }
    target[length] = 0;
    entry.link = target;
    emit(&entry);
}

static void close_a_level(void)
{
    if (depth < OPEN_MAX_LEVELS)
        return;
    struct level *level = &levels[depth - OPEN_MAX_LEVELS];
    if (level->dir == NULL)
        return;
    level->position = telldir(level->dir);
    closedir(level->dir);
    level->dir = NULL;
}

static void enter(int fd, const struct stat *status)
{
    if (depth == level_room) {
        level_room = level_room == 0 ? 64 : level_room * 2;
        levels = realloc(levels, level_room * sizeof *levels);
        if (levels == NULL)
            files_die(path);
    }
    close_a_level();
    struct level level = {
        .dir = fdopendir(fd), .device = status->st_dev, .inode = status->st_ino, .path_length = strlen(path)};
    if (level.dir == NULL)
        files_die(path);
    levels[depth++] = level;
}

static void leave(void)
{
    struct level *done = &levels[--depth];
    struct level *above = depth > 0 ? &levels[depth - 1] : NULL;
    if (above != NULL && above->dir == NULL) {
        struct stat status;
        int fd = openat(dirfd(done->dir), "..", O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (fd < 0 || fstat(fd, &status) != 0)
            files_die(path);
        if (status.st_dev != above->device || status.st_ino != above->inode)
            files_die_of(EAGAIN, path); /* moved away under our feet */
        above->dir = fdopendir(fd);
        if (above->dir == NULL)
            files_die(path);
        seekdir(above->dir, above->position);
    }
    closedir(done->dir);
}

static void send_folder(int fd, const struct stat *status, dev_t parent)
{
    struct tar_entry entry = entry_of(status, TAR_FOLDER);
    emit(&entry);
    if (depth > 0 && status->st_dev != parent && is_kernels(fd))
        close(fd);
    else
        enter(fd, status);
}

/* The name's own file, opened in a way that nothing happens by it. -1: it is gone. */
static int open_plain(int folder, const char *name, int flags)
{
    int fd = openat(folder, name, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC | flags);
    if (fd < 0 && errno != ENOENT && errno != ELOOP && errno != ENOTDIR && errno != ENXIO)
        files_die(path);
    return fd;
}

static bool visit(int folder, const char *name, int follow, dev_t parent)
{
    struct stat status;
    int no_follow = follow ? 0 : O_NOFOLLOW;
    if (fstatat(folder, name, &status, follow ? 0 : AT_SYMLINK_NOFOLLOW) != 0) {
        if (errno == ENOENT)
            return false;
        files_die(path);
    }
    if (S_ISLNK(status.st_mode)) {
        send_symlink(folder, name, &status);
        return true;
    }
    bool is_folder = S_ISDIR(status.st_mode);
    if (!is_folder && !S_ISREG(status.st_mode)) {
        count(&left_out, &first_left_out);
        return true;
    }
    int fd = open_plain(folder, name, no_follow | (is_folder ? O_DIRECTORY : 0));
    if (fd < 0)
        return false;
    if (fstat(fd, &status) != 0)
        files_die(path);
    if (is_folder) {
        send_folder(fd, &status, parent);
        return true;
    }
    if (S_ISREG(status.st_mode))
        send_file(fd, &status);
    close(fd);
    return true;
}

static void walk(void)
{
    while (depth > 0) {
        struct level *top = &levels[depth - 1];
        errno = 0;
        struct dirent *found = readdir(top->dir);
        path[top->path_length] = 0;
        if (found == NULL) {
            if (errno != 0 && errno != ENOENT)
                files_die(path);
            leave();
            continue;
        }
        if (strcmp(found->d_name, ".") == 0 || strcmp(found->d_name, "..") == 0)
            continue;
        size_t length = strlen(found->d_name);
        if (top->path_length + 1 + length >= TAR_TEXT_MAX)
            files_die_of(ENAMETOOLONG, path);
        path[top->path_length] = '/';
        memcpy(path + top->path_length + 1, found->d_name, length + 1);
        visit(dirfd(top->dir), found->d_name, false, top->device);
    }
}

int mode_pack(char **argv)
{
    bool in_job = strcmp(*argv, "-j") == 0;
    argv += in_job ? 1 : 0;
    bool follow = *argv != NULL && strcmp(*argv, "-L") == 0;
    argv += follow ? 1 : 0;
    if (argv[0] == NULL || argv[1] == NULL || argv[2] != NULL || strlen(argv[0]) >= TAR_TEXT_MAX)
        return 2;
    files_begin(in_job);
    path = malloc(TAR_TEXT_MAX + 1);
    target = malloc(TAR_TEXT_MAX + 1);
    if (path == NULL || target == NULL)
        files_die("no memory");
    strcpy(path, argv[0]);
    if (!visit(AT_FDCWD, argv[1], follow, 0))
        files_die_of(ENOENT, argv[1]);
    if (left_out > 0 && depth == 0)
        files_die_of(EINVAL, argv[1]);
    walk();
    if (tar_write_end() != 0)
        files_die(path);
    if (left_out > 0)
        files_tell("left-out", left_out, first_left_out == NULL ? "" : first_left_out);
    if (shrunk > 0)
        files_tell("shrunk", shrunk, first_shrunk == NULL ? "" : first_shrunk);
    return 0;
}
