/* Sessions: further processes in the running job. Each belongs to the connection that opened it and ends with that. */
#ifndef DMS_SESSION_H
#define DMS_SESSION_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "frame.h"

/* Spawns the command of an OPEN with `fds` as its descriptors from 0 on, which stay the caller's to close. */
void session_open(int client, const struct frame *frame, const int *fds, int count);
void session_enter(int client, pid_t pid); /* moves the session's first process into its control group */
void session_close(int client, bool kill_all);
void session_client_left(int client); /* nobody wants it any more: all of it is killed */

bool sessions_are_open(void);
void session_reaped(pid_t pid, int status);
void sessions_tick(void);  /* goes on with what has not died yet */
void sessions_sweep(void); /* removes the groups that nothing lives in any more */

#endif
