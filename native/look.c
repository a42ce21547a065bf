/* `dms-shim look [-j] PATH`: what a path is, and what it leads to. */
#include "modes.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <string.h>
#include <sys/stat.h>

#include "files.h"

static char kind_of(const char *path, int flags)
{
    struct stat status;
    if (fstatat(AT_FDCWD, path, &status, flags) != 0) {
        if (errno == ENOENT || errno == ENOTDIR)
            return '-';
        files_die(path);
    }
    return S_ISDIR(status.st_mode) ? 'd' : S_ISREG(status.st_mode) ? 'f' : S_ISLNK(status.st_mode) ? 'l' : 'o';
}

int mode_look(char **argv)
{
    bool in_job = strcmp(*argv, "-j") == 0;
    argv += in_job ? 1 : 0;
    if (argv[0] == NULL || argv[1] != NULL)
        return 2;
    files_begin(in_job);
    const char kinds[] = {kind_of(argv[0], AT_SYMLINK_NOFOLLOW), kind_of(argv[0], 0), 0};
    files_tell("look", 0, kinds);
    return 0;
}
