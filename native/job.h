/* Processes: ARGV's, and all that became our children since we are their subreaper. */
#ifndef DMS_JOB_H
#define DMS_JOB_H

#include <stdbool.h>
#include <sys/types.h>

#include "config.h"

/* Spawns ARGV with `report` as descriptor 3 (-1: none). Its pid, or -1 with errno: of what could not be done, execve
 * included. */
pid_t job_spawn(const struct config *config, const int out[2], int report);

/* The same for a command of its own, with `fds` as its descriptors from 0 on. */
pid_t job_spawn_plain(char **argv, char **env, const int *fds, int count);

/* A process of that number is our child (a zombie, too), so that no stranger can bear its number. */
bool job_is_child(pid_t pid);

/* Whether there is a child beside that one (0: any child). */
bool job_has_others(pid_t but);

/* A pidfd, -1 if there is none to be had, and whether its process was not reaped yet. */
int job_handle(pid_t pid);
bool job_exists(int handle);

/* The number in a file of the folder, 0 if there is none. */
pid_t job_pidfile(int folder, const char *name);

/* Kills and reaps all children, again and again while they fork; gives up after about a second. */
void job_kill_children(void);

bool job_kill_listed(void); /* one round of that; false: no list is to be had */

/* Makes the calling process, a fresh child, one that executes with default signals. */
void job_reset_signals(void);

#endif
