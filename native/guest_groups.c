/* Each further command is in a control group of its own, by which all that came of it can be killed at once. Numbers are
 * never given twice: what a command left in the background stays in its group. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "guest.h"
#include "sys.h"

#define PREFIX "exec-"

static unsigned last;

static void path_of(unsigned number, const char *file, char *out, size_t size)
{
    snprintf(out, size, GUEST_CGROUP "/" PREFIX "%u%s", number, file);
}

/* What has ended since in those that were left behind. */
static void sweep(void)
{
    DIR *folder = opendir(GUEST_CGROUP);
    struct dirent *entry;
    while (folder != NULL && (entry = readdir(folder)) != NULL)
        if (strncmp(entry->d_name, PREFIX, sizeof PREFIX - 1) == 0)
            unlinkat(dirfd(folder), entry->d_name, AT_REMOVEDIR); /* busy: it is in use */
    if (folder != NULL)
        closedir(folder);
}

unsigned guest_group_make(void)
{
    char path[64];
    sweep();
    path_of(++last, "", path, sizeof path);
    return mkdir(path, 0755) == 0 ? last : 0;
}

void guest_group_kill(unsigned number)
{
    char path[64];
    path_of(number, "/cgroup.kill", path, sizeof path);
    if (number != 0)
        sys_write_file(path, "1", 1);
}

bool guest_group_drop(unsigned number)
{
    char path[64];
    path_of(number, "", path, sizeof path);
    return number == 0 || rmdir(path) == 0 || errno == ENOENT;
}
