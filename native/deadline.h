/* A job's timeout, kept by its init: in a pod nobody else lives as long as the job (docs/protocol.md, section 3, `-d`). */
#ifndef DMS_DEADLINE_H
#define DMS_DEADLINE_H

#include <stdbool.h>
#include <sys/signalfd.h>

/* "MILLISECONDS:GRACE". False where it is no such thing. */
bool deadline_set(const char *text);

/* The time runs from now on. Does nothing where none was set. */
void deadline_begin(void);

/* Which signal has to go out by what was read, 0: none. TERM when the time is over, KILL after the grace. */
int deadline_due(const struct signalfd_siginfo *info);

#endif
