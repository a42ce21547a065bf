#include "idmap.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "sys.h"

static int write_map(pid_t pid, const char *name, const struct idmap *idmap)
{
    char path[48], text[48];
    snprintf(path, sizeof path, "/proc/%d/%s", (int)pid, name);
    int length = snprintf(text, sizeof text, "0 %u %u\n", idmap->first, idmap->count);
    return sys_write_file(path, text, (size_t)length);
}

int idmap_namespace(const struct idmap *idmap)
{
    pid_t self = getpid();
    /* As fork(2), in a user namespace of its own; with no stack given the order of the arguments does not matter. */
    pid_t child = (pid_t)syscall(SYS_clone, (unsigned long)(CLONE_NEWUSER | SIGCHLD), 0ul, 0ul, 0ul, 0ul);
    if (child < 0)
        return -1;
    if (child == 0) {
        if (prctl(PR_SET_PDEATHSIG, SIGKILL) == 0 && getppid() == self)
            for (;;)
                pause();
        _exit(1);
    }
    char path[48];
    snprintf(path, sizeof path, "/proc/%d/ns/user", (int)child);
    int fd = -1;
    if (write_map(child, "uid_map", idmap) == 0 && write_map(child, "gid_map", idmap) == 0)
        fd = open(path, O_RDONLY | O_CLOEXEC);
    int error = errno;
    kill(child, SIGKILL);
    while (waitpid(child, NULL, 0) < 0 && errno == EINTR)
        ;
    errno = error;
    return fd;
}

static int take_one(const struct idmap *idmap, int folder, const char *name)
{
    struct stat status;
    if (fstatat(folder, name, &status, AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH) != 0)
        return -1;
    return fchownat(folder, name, idmap->first + status.st_uid % idmap->count,
                    idmap->first + status.st_gid % idmap->count, AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH);
}

int idmap_take(const struct idmap *idmap, int fd)
{
    int opened = openat(fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *folder = opened < 0 ? NULL : fdopendir(opened);
    if (folder == NULL) {
        if (opened >= 0)
            close(opened);
        return -1;
    }
    int result = take_one(idmap, fd, "");
    const struct dirent *entry;
    while (result == 0 && (entry = readdir(folder)) != NULL)
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
            result = take_one(idmap, opened, entry->d_name);
    int error = errno;
    closedir(folder);
    errno = error;
    return result;
}
