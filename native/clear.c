#include "files.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

int files_clear(int folder, const char *name)
{
    struct dirent *entry;
    /* Whose it is may have forbidden itself to change it. */
    fchmodat(folder, name, 0700, AT_SYMLINK_NOFOLLOW);
    int result = 0, fd = openat(folder, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    DIR *found = fd < 0 ? NULL : fdopendir(fd);
    if (found == NULL)
        return -1;
    while (result == 0 && (entry = readdir(found)) != NULL) {
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
            continue;
        if (unlinkat(dirfd(found), entry->d_name, 0) != 0)
            result = errno == EISDIR || errno == EPERM ? files_clear(dirfd(found), entry->d_name) : -1;
    }
    int error = errno;
    closedir(found);
    errno = error;
    return result == 0 ? unlinkat(folder, name, AT_REMOVEDIR) : -1;
}
