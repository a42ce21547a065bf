#include "search.h"

#include <errno.h>
#include <limits.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define DEFAULT_PATH "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

int search_and_execute(char **argv)
{
    extern char **environ;
    const char *name = argv[0], *path = getenv("PATH");
    size_t name_length = strlen(name);
    char candidate[PATH_MAX];
    bool denied = false;
    if (name_length == 0)
        return ENOENT;
    if (strchr(name, '/') != NULL) {
        execve(name, argv, environ);
        return errno;
    }
    for (path = path != NULL ? path : DEFAULT_PATH;; path++) {
        size_t length = strcspn(path, ":");
        if (length + name_length + 2 <= sizeof candidate) {
            memcpy(candidate, path, length);
            if (length > 0)
                candidate[length++] = '/';
            memcpy(candidate + length, name, name_length + 1);
            execve(candidate, argv, environ);
            if (errno == EACCES)
                denied = true;
            else if (errno != ENOENT && errno != ENOTDIR)
                return errno;
        }
        path += strcspn(path, ":");
        if (*path == 0)
            return denied ? EACCES : ENOENT;
    }
}
