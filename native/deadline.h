/* How long a job may last, kept by its init: in a pod nobody else lives as long as the job (docs/protocol.md, section 3,
 * `-d` and `-k`). By a descriptor, since a signal of a timer's can be lost among those that the job sends. */
#ifndef DMS_DEADLINE_H
#define DMS_DEADLINE_H

#include <stdbool.h>
#include <sys/signalfd.h>

enum {
    DEADLINE_ASKED = 64, /* the signal with whose value, in milliseconds, a grace is asked for */
    DEADLINE_WITHDRAWN = -1 /* its value for an init that has not been let go: it ends, and the job never runs */
};

/* "MILLISECONDS:GRACE". False where it is no such thing. */
bool deadline_set(const char *text);

/* The time runs from now on. Does nothing where none was set. False with errno. */
bool deadline_begin(void);

/* What to poll, -1: nothing yet. */
int deadline_timer(void);

/* Whether that was a wish for a grace: it runs from now on, unless an earlier one is over sooner. The time goes on. */
bool deadline_asked(const struct signalfd_siginfo *info);

/* Which signal has to go out when the timer can be read, 0: none. TERM when the time is over, KILL after the grace. */
int deadline_due(void);

#endif
