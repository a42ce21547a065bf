#include "descendants.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "sys.h"

enum { MOST = 8192, ROUNDS = 2000 };

struct process {
    pid_t pid, parent;
    char state;
    bool ours;
};

static struct process seen[MOST];

static bool look(const char *name, struct process *process)
{
    char path[64], text[512];
    if (snprintf(path, sizeof path, "/proc/%.20s/stat", name) >= (int)sizeof path ||
        sys_read_file(AT_FDCWD, path, text, sizeof text) <= 0)
        return false;
    /* A name may hold anything, a bracket too: proc(5). */
    const char *after = strrchr(text, ')');
    int parent;
    if (after == NULL || sscanf(after, ") %c %d", &process->state, &parent) != 2)
        return false;
    process->pid = atoi(name);
    process->parent = parent;
    process->ours = false;
    return true;
}

static int look_around(void)
{
    DIR *folder = opendir("/proc");
    struct dirent *entry;
    int count = 0;
    if (folder == NULL)
        return 0;
    while (count < MOST && (entry = readdir(folder)) != NULL)
        if (entry->d_name[0] >= '1' && entry->d_name[0] <= '9' && look(entry->d_name, &seen[count]))
            count++;
    closedir(folder);
    return count;
}

/* A descendant's parent may stand behind it in the list: numbers are given anew. */
static int find_ours(void)
{
    int count = look_around();
    pid_t self = getpid();
    for (bool found = true; found;) {
        found = false;
        for (int i = 0; i < count; i++) {
            bool ours = seen[i].parent == self;
            for (int j = 0; j < count && !ours && !seen[i].ours; j++)
                ours = seen[j].ours && seen[j].pid == seen[i].parent;
            if (ours && !seen[i].ours)
                found = seen[i].ours = true;
        }
    }
    return count;
}

static bool is_dead(char state)
{
    return state == 'Z' || state == 'X' || state == 'x';
}

/* True while one that had not been stopped was found. */
static bool stop_all(void)
{
    int count = find_ours();
    bool found = false;
    for (int i = 0; i < count; i++) {
        if (!seen[i].ours || is_dead(seen[i].state) || seen[i].state == 'T' || seen[i].state == 't')
            continue;
        found |= kill(seen[i].pid, SIGSTOP) == 0;
    }
    return found;
}

static bool kill_all(void)
{
    int count = find_ours();
    bool found = false;
    for (int i = 0; i < count; i++)
        if (seen[i].ours && !is_dead(seen[i].state))
            found |= kill(seen[i].pid, SIGKILL) == 0;
    return found;
}

static void a_moment(void)
{
    struct timespec time = {.tv_nsec = 1000 * 1000};
    nanosleep(&time, NULL);
}

void descendants_kill(void)
{
    /* Who is stopped forks no more; to kill one by one would leave those a chance that are born meanwhile. */
    for (int round = 0; round < ROUNDS && stop_all(); round++)
        a_moment();
    for (int round = 0; round < ROUNDS && kill_all(); round++) {
        while (waitpid(-1, NULL, WNOHANG) > 0)
            ;
        a_moment();
    }
}
