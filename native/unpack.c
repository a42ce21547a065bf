/* `dms-shim unpack [-j] [-o] [-r] [-s] [-n NAME [-t NUMBER]] FOLDER`: a tar stream from descriptor 0 into a folder that
 * is there.
 *
 * With -n nothing but NAME and what is in it: the folder may hold other things that a stranger must not replace.
 * With -t that comes to its place once it is whole.
 * Nothing in the stream leads out of that folder: names hold no `..`, folders are never reached through symbolic links,
 * and a file takes another's place by a new inode, so that nothing is written through a link either. */
#include "modes.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "attempt.h"
#include "extents.h"
#include "files.h"
#include "tar.h"

#define COPY 131072u
#define NAME_LENGTH_MAX 255u

/* A folder that the entries are still in: its mode and times come last, when nothing in it changes any more. */
struct pending {
    size_t length; /* of its name, the beginning of the present one */
    struct tar_entry entry;
};

static int base = -1;
static bool keep_owner, drop_special, replaces;
static const char *only; /* -n */
static unsigned attempt; /* -t; 0: none */
static char *path, *link_path, *pending_path;
static struct pending *pending;
static size_t pending_count, pending_room;
static int parent = -1; /* the folder of `parent_path` */
static char *parent_path;
static uint64_t left_out;
static char *first_left_out;

static _Noreturn void die(const char *what)
{
    if (errno == EBADMSG)
        files_die_of(EBADMSG, tar_wrong);
    files_die(what);
}

/* Without doubled slashes, dots and a leading slash. */
static void clean(const char *from, char *to)
{
    char *at = to;
    for (size_t length; *from != 0; from += length) {
        while (*from == '/')
            from++;
        length = files_part(from);
        if (length == 0 || (length == 1 && from[0] == '.'))
            continue;
        if (length == 2 && from[0] == '.' && from[1] == '.')
            files_die_of(EBADMSG, "a name leads out of the archive by '..'");
        if (length > NAME_LENGTH_MAX)
            files_die_of(ENAMETOOLONG, from);
        if ((size_t)(at - to) + length + 1 > TAR_TEXT_MAX)
            files_die_of(ENAMETOOLONG, from);
        if (at != to)
            *at++ = '/';
        memcpy(at, from, length);
        at += length;
    }
    *at = 0;
}

static void check_asked_for(const char *whole)
{
    size_t length = only == NULL ? 0 : strlen(only);
    if (only != NULL && (strncmp(whole, only, length) != 0 || (whole[length] != 0 && whole[length] != '/')))
        files_die_of(EBADMSG, "an entry is not what was asked for");
}

static char *split(char *whole)
{
    char *slash = strrchr(whole, '/');
    if (slash == NULL)
        return whole;
    *slash = 0;
    return slash + 1;
}

/* What an archive does not name itself, as every tar program does. */
static int make_folders(const char *whole)
{
    char part[NAME_LENGTH_MAX + 1];
    int at = fcntl(base, F_DUPFD_CLOEXEC, 3);
    while (at >= 0 && *whole != 0) {
        size_t length = files_part(whole);
        memcpy(part, whole, length);
        part[length] = 0;
        whole += length + (whole[length] == '/' ? 1 : 0);
        int next = -1;
        if (mkdirat(at, part, 0755) == 0 || errno == EEXIST)
            next = openat(at, part, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        int error = errno;
        close(at);
        errno = error;
        at = next;
    }
    return at;
}

/* The folder of that name, opened; kept for the entries that follow in it. */
static int folder_of(const char *whole)
{
    size_t known = strlen(parent_path), length = strlen(whole);
    bool begins = parent >= 0 && length >= known && files_same(parent_path, whole, known);
    if (begins && length == known)
        return parent;
    bool below = begins && known > 0 && whole[known] == '/';
    int found = below ? files_folder(parent, whole + known + 1) : files_folder(base, whole);
    if (found < 0 && errno == ENOENT)
        found = make_folders(whole);
    if (found < 0)
        die(whole);
    if (parent >= 0)
        close(parent);
    parent = found;
    memcpy(parent_path, whole, length + 1);
    return parent;
}

static void set_times(int fd, const struct tar_entry *entry)
{
    const struct timespec times[2] = {
        {.tv_sec = entry->seconds, .tv_nsec = entry->nanoseconds},
        {.tv_sec = entry->seconds, .tv_nsec = entry->nanoseconds},
    };
    if (futimens(fd, times) != 0)
        die(path);
}

static void set_all(int fd, const struct tar_entry *entry, const char *name)
{
    uint32_t mode = entry->mode;
    if (drop_special)
        mode &= entry->type == TAR_FOLDER ? 01777 : 0777;
    /* The owner first: the kernel takes special bits away when it changes. */
    if (keep_owner && fchown(fd, entry->uid, entry->gid) != 0)
        die(name);
    if (fchmod(fd, mode) != 0)
        die(name);
    set_times(fd, entry);
}

static void settle(const struct pending *done)
{
    char kept = pending_path[done->length];
    pending_path[done->length] = 0;
    int place = files_folder(base, pending_path);
    int fd = place < 0 ? -1 : openat(place, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        die(pending_path);
    set_all(fd, &done->entry, pending_path);
    close(fd);
    close(place);
    pending_path[done->length] = kept;
}

/* Those that `next` is not in. */
static void settle_left(const char *next)
{
    size_t length = strlen(next);
    while (pending_count > 0) {
        const struct pending *last = &pending[pending_count - 1];
        if (length >= last->length && files_same(next, pending_path, last->length) &&
            (next[last->length] == '/' || next[last->length] == 0))
            return;
        settle(last);
        pending_count--;
    }
}

static void expect(const struct tar_entry *entry)
{
    if (pending_count == pending_room) {
        pending_room = pending_room == 0 ? 64 : pending_room * 2;
        pending = realloc(pending, pending_room * sizeof *pending);
        if (pending == NULL)
            die(path);
    }
    size_t length = strlen(path);
    memcpy(pending_path, path, length + 1);
    pending[pending_count++] = (struct pending){length, *entry};
}

/* Makes room for what is no folder. */
static void replace(int folder, const char *name)
{
    if (unlinkat(folder, name, 0) == 0 || errno == ENOENT)
        return;
    struct stat status;
    int error = errno;
    bool is_folder = fstatat(folder, name, &status, AT_SYMLINK_NOFOLLOW) == 0 && S_ISDIR(status.st_mode);
    if (is_folder && !replaces)
        files_die_of(EISDIR, path);
    if (!is_folder)
        files_die_of(error, path);
    if (files_clear(folder, name) != 0)
        die(path);
}

static void make_folder(int folder, const char *name, const struct tar_entry *entry)
{
    struct stat status;
    if (mkdirat(folder, name, 0700) != 0) {
        if (errno != EEXIST || fstatat(folder, name, &status, AT_SYMLINK_NOFOLLOW) != 0)
            die(path);
        if (!S_ISDIR(status.st_mode) && !replaces)
            files_die_of(ENOTDIR, path);
        if (!S_ISDIR(status.st_mode) && (unlinkat(folder, name, 0) != 0 || mkdirat(folder, name, 0700) != 0))
            die(path);
    }
    expect(entry);
}

static void receive(int fd, uint64_t offset, uint64_t length)
{
    static uint8_t buffer[COPY];
    while (length > 0) {
        size_t part = length < sizeof buffer ? (size_t)length : sizeof buffer;
        ssize_t got = tar_read(buffer, part);
        if (got < 0)
            die(path);
        if (got == 0)
            files_die_of(EBADMSG, "it ends in the middle");
        for (ssize_t done = 0; done < got;) {
            ssize_t wrote = pwrite(fd, buffer + done, (size_t)(got - done), (off_t)offset);
            if (wrote < 0 && errno == EINTR)
                continue;
            if (wrote <= 0)
                die(path);
            done += wrote;
            offset += (uint64_t)wrote;
        }
        length -= (uint64_t)got;
    }
}

static void make_file(int folder, const char *name, const struct tar_entry *entry)
{
    replace(folder, name);
    int fd = openat(folder, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd < 0)
        die(path);
    if (entry->sparse) {
        struct extents extents = {0};
        if (extents_read(entry->size, entry->real_size, &extents) != 0)
            die(path);
        for (size_t i = 0; i < extents.count; i++)
            receive(fd, extents.list[i].offset, extents.list[i].length);
        free(extents.list);
        if (ftruncate(fd, (off_t)entry->real_size) != 0)
            die(path);
    } else {
        receive(fd, 0, entry->size);
    }
    set_all(fd, entry, path);
    /* A full disk may show only here. */
    if (close(fd) != 0)
        die(path);
}

static void make_symlink(int folder, const char *name, const struct tar_entry *entry)
{
    const struct timespec times[2] = {
        {.tv_sec = entry->seconds, .tv_nsec = entry->nanoseconds},
        {.tv_sec = entry->seconds, .tv_nsec = entry->nanoseconds},
    };
    replace(folder, name);
    if (symlinkat(entry->link, folder, name) != 0)
        die(path);
    if (keep_owner && fchownat(folder, name, entry->uid, entry->gid, AT_SYMLINK_NOFOLLOW) != 0)
        die(path);
    if (utimensat(folder, name, times, AT_SYMLINK_NOFOLLOW) != 0)
        die(path);
}

static void make_hard_link(int folder, const char *name, const struct tar_entry *entry)
{
    struct stat first, second;
    clean(entry->link, link_path);
    check_asked_for(link_path);
    bool nested = strchr(link_path, '/') != NULL;
    char *last = split(link_path);
    int from = files_folder(base, nested ? link_path : "");
    if (from < 0 || fstatat(from, last, &first, AT_SYMLINK_NOFOLLOW) != 0)
        die(path);
    if (fstatat(folder, name, &second, AT_SYMLINK_NOFOLLOW) != 0 || first.st_ino != second.st_ino ||
        first.st_dev != second.st_dev) {
        replace(folder, name);
        if (linkat(from, last, folder, name, 0) != 0)
            die(path);
    }
    close(from);
}

/* Whether the entry's data has been read. */
static bool take(const struct tar_entry *entry)
{
    clean(entry->path, path);
    check_asked_for(path);
    settle_left(path);
    if (*path == 0) /* the folder itself, which was there before */
        return false;
    if (entry->type == TAR_CHAR_DEVICE || entry->type == TAR_BLOCK_DEVICE || entry->type == TAR_FIFO) {
        if (left_out++ == 0)
            first_left_out = strdup(path);
        return false;
    }
    static char *folder_path;
    if (folder_path == NULL && (folder_path = malloc(TAR_TEXT_MAX + 1)) == NULL)
        die(path);
    memcpy(folder_path, path, strlen(path) + 1);
    char *name = split(folder_path);
    int folder = folder_of(name == folder_path ? "" : folder_path);
    if (entry->type == TAR_FILE)
        make_file(folder, name, entry);
    else if (entry->type == TAR_FOLDER)
        make_folder(folder, name, entry);
    else if (entry->type == TAR_SYMLINK)
        make_symlink(folder, name, entry);
    else
        make_hard_link(folder, name, entry);
    return entry->type == TAR_FILE;
}

static int options(int argc, char **argv, bool *in_job)
{
    int option;
    while ((option = getopt(argc, argv, "+jorsn:t:")) != -1) {
        if (option == 'j')
            *in_job = true;
        else if (option == 'o')
            keep_owner = true;
        else if (option == 'r')
            replaces = true;
        else if (option == 's')
            drop_special = true;
        else if (option == 'n')
            only = optarg;
        else if (option == 't')
            attempt = (unsigned)strtoul(optarg, NULL, 10);
        else
            return -1;
    }
    return argc - optind == 1 && (attempt == 0 || only != NULL) ? optind : -1;
}

int mode_unpack(int argc, char **argv)
{
    struct tar_entry entry;
    bool in_job = false;
    int index = options(argc, argv, &in_job), found;
    if (index < 0)
        return 2;
    files_begin(in_job);
    umask(0);
    path = malloc(TAR_TEXT_MAX + 1);
    link_path = malloc(TAR_TEXT_MAX + 1);
    pending_path = calloc(1, TAR_TEXT_MAX + 1);
    parent_path = calloc(1, TAR_TEXT_MAX + 1);
    if (path == NULL || link_path == NULL || pending_path == NULL || parent_path == NULL)
        die("no memory");
    base = open(argv[index], O_PATH | O_DIRECTORY | O_CLOEXEC);
    int folder = base;
    if (base >= 0 && attempt > 0)
        base = attempt_begin(folder, attempt);
    if (base < 0)
        die(argv[index]);
    while ((found = tar_read_entry(&entry)) > 0) {
        uint64_t padding = tar_padding(entry.size);
        if (tar_skip(take(&entry) ? padding : entry.size + padding) != 0)
            die(path);
    }
    if (found < 0)
        die(path);
    /* Whoever writes it may go on to the end of a block of its own. */
    uint8_t rest[TAR_BLOCK];
    ssize_t got;
    while ((got = tar_read(rest, sizeof rest)) > 0)
        ;
    if (got < 0)
        die("the end of the archive");
    /* Before its own mode may forbid to move it. */
    if (attempt > 0 && attempt_end(folder, base, attempt, only) != 0)
        die(only);
    base = folder;
    settle_left("");
    if (left_out > 0)
        files_tell("left-out", left_out, first_left_out == NULL ? "" : first_left_out);
    return 0;
}
