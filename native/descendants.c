#include "descendants.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "sys.h"

/* Of a millisecond and a look at /proc each: in all, and without anything new. */
enum { ROUNDS = 2000, PATIENCE = 200, FIRST_ROOM = 256 };

enum whose { UNKNOWN, OTHERS, OURS };

struct process {
    pid_t pid, parent;
    unsigned long long start; /* tells it from a later one of its number */
    long threads;
    char state;
    enum whose whose;
};

struct list {
    struct process *all; /* by pid */
    size_t count, room;
};

static struct list now, before;
static bool unsure; /* whose one is cannot be told: its parent has gone since */

static bool look(const char *name, struct process *it)
{
    char path[64], text[512];
    if (snprintf(path, sizeof path, "/proc/%.20s/stat", name) >= (int)sizeof path ||
        sys_read_file(AT_FDCWD, path, text, sizeof text) <= 0)
        return false;
    /* A name may hold anything, a bracket too: proc_pid_stat(5). Fields 3, 4, 20 and 22. */
    const char *after = strrchr(text, ')');
    if (after == NULL || sscanf(after,
                                ") %c %d %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %ld %*s %llu",
                                &it->state, &it->parent, &it->threads, &it->start) != 4)
        return false;
    it->pid = (pid_t)strtol(name, NULL, 10);
    it->whose = UNKNOWN;
    return true;
}

static bool put(struct list *list, const struct process *it)
{
    if (list->count == list->room) {
        size_t room = list->room == 0 ? FIRST_ROOM : 2 * list->room;
        struct process *more = realloc(list->all, room * sizeof *more);
        if (more == NULL)
            return false;
        list->all = more;
        list->room = room;
    }
    list->all[list->count++] = *it;
    return true;
}

static int by_pid(const void *one, const void *other)
{
    pid_t a = ((const struct process *)one)->pid, b = ((const struct process *)other)->pid;
    return (a > b) - (a < b);
}

static struct process *find(const struct list *list, pid_t pid)
{
    struct process wanted = {.pid = pid};
    return list->count == 0 ? NULL : bsearch(&wanted, list->all, list->count, sizeof wanted, by_pid);
}

/* Up to the first ancestor of whom it is known, and down again: each is passed once. */
static void settle(struct process *it, pid_t self)
{
    enum whose whose = OTHERS;
    struct process *at = it;
    size_t steps = 0;
    for (; at != NULL; at = find(&now, at->parent)) {
        if (at->whose != UNKNOWN) {
            whose = at->whose;
            break;
        }
        at->whose = OTHERS; /* a circle, which numbers that are given anew could feign, ends here */
        steps++;
        if (at->parent == self)
            whose = OURS;
        if (at->parent == self || at->parent == 0)
            break;
    }
    unsure |= at == NULL;
    for (at = it; steps > 0; steps--, at = find(&now, at->parent))
        at->whose = whose;
}

static void look_around(void)
{
    struct list former = before;
    struct process process;
    struct dirent *entry;
    before = now;
    now = former;
    now.count = 0;
    unsure = false;
    DIR *folder = opendir("/proc");
    if (folder == NULL)
        return;
    while ((entry = readdir(folder)) != NULL)
        if (entry->d_name[0] >= '1' && entry->d_name[0] <= '9' && look(entry->d_name, &process) &&
            !put(&now, &process))
            unsure = true; /* no memory: what has been found goes, and then there is more */
    closedir(folder);
    qsort(now.all, now.count, sizeof process, by_pid);
    for (size_t i = 0; i < now.count; i++)
        if (now.all[i].whose == UNKNOWN)
            settle(&now.all[i], getpid());
}

static bool is_new(const struct process *it)
{
    const struct process *known = find(&before, it->pid);
    return known == NULL || known->start != it->start;
}

/* A process whose first thread has ended is shown as a zombie while its others run. */
static bool is_dead(const struct process *it)
{
    return it->state == 'X' || it->state == 'x' || (it->state == 'Z' && it->threads <= 1);
}

static bool stands(const struct process *it)
{
    return it->state == 'T' || it->state == 't';
}

/* Looks, and sends the signal to each of ours that lives. True while that may have changed something: one was there that
 * does not stand (to be stopped), or one at all (to be killed). `*found_new`: since the last look. */
static bool signal_all(int signum, bool *found_new)
{
    bool goes_on = false;
    look_around();
    *found_new = false;
    for (size_t i = 0; i < now.count; i++) {
        const struct process *it = &now.all[i];
        if (it->whose != OURS || is_dead(it) || (signum == SIGSTOP && stands(it)))
            continue;
        if (kill(it->pid, signum) != 0)
            continue;
        goes_on = true;
        *found_new |= is_new(it);
    }
    return goes_on;
}

static void a_moment(void)
{
    struct timespec time = {.tv_nsec = 1000 * 1000};
    nanosleep(&time, NULL);
}

void descendants_kill(void)
{
    bool found_new;
    int quiet = 0;
    before.count = now.count = 0;
    /* Who stands forks no more; to kill one by one would leave those a chance that are born meanwhile. One that waits
     * for its vfork never stands, once its child does: nothing new comes of it either. */
    for (int round = 0; round < ROUNDS && quiet < PATIENCE; round++) {
        if (!signal_all(SIGSTOP, &found_new) && !unsure)
            break;
        quiet = found_new ? 0 : quiet + 1;
        a_moment();
    }
    quiet = 0;
    for (int round = 0; round < ROUNDS && quiet < PATIENCE; round++) {
        bool lives = signal_all(SIGKILL, &found_new);
        if (!lives && !unsure)
            break;
        quiet = lives ? 0 : quiet + 1;
        while (waitpid(-1, NULL, WNOHANG) > 0)
            ;
        a_moment();
    }
}

bool descendants_ended(void)
{
    const struct timespec patience = {.tv_sec = 1};
    sigset_t child;
    pid_t pid;
    sigemptyset(&child);
    sigaddset(&child, SIGCHLD); /* blocked, as all are */
    kill(-1, SIGKILL);
    while ((pid = waitpid(-1, NULL, WNOHANG)) >= 0)
        if (pid == 0 && sigtimedwait(&child, NULL, &patience) < 0 && errno == EAGAIN)
            return false;
    return true;
}
