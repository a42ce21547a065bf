#include "attempt.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "files.h"

/* Whoever was cut off may still write what it had got by then: in the end it finds no folder any more. */
static int take_away(int folder, const char *name)
{
    if (unlinkat(folder, name, 0) == 0)
        return 0;
    while (errno != ENOENT && files_clear(folder, name) != 0)
        if (errno != ENOTEMPTY && errno != ENOENT)
            return -1;
    return 0;
}

/* 0: none. */
static unsigned long number_of(const char *name)
{
    char *end;
    unsigned long number = strtoul(name, &end, 10);
    return *end == 0 ? number : 0;
}

static int take_former(int folder, unsigned number)
{
    int fd = openat(folder, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC), result = 0;
    DIR *found = fd < 0 ? NULL : fdopendir(fd);
    struct dirent *entry;
    if (found == NULL)
        return -1;
    while (result == 0 && (entry = readdir(found)) != NULL) {
        unsigned long other = number_of(entry->d_name);
        if (other > 0 && other < number)
            result = take_away(folder, entry->d_name);
    }
    int error = errno;
    closedir(found);
    errno = error;
    return result;
}

int attempt_begin(int folder, unsigned number)
{
    char name[16];
    snprintf(name, sizeof name, "%u", number);
    if (take_former(folder, number) != 0 || mkdirat(folder, name, 0700) != 0)
        return -1;
    return openat(folder, name, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
}

int attempt_end(int folder, int place, unsigned number, const char *name)
{
    char own[16];
    snprintf(own, sizeof own, "%u", number);
    while (renameat(place, name, folder, name) != 0)
        if ((errno != ENOTEMPTY && errno != EEXIST && errno != EISDIR && errno != ENOTDIR) ||
            take_away(folder, name) != 0)
            return -1;
    return unlinkat(folder, own, AT_REMOVEDIR);
}
