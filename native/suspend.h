/* A job that is suspended to disk: we end, and another shim goes on with it in the same folder. */
#ifndef DMS_SUSPEND_H
#define DMS_SUSPEND_H

#include <stdbool.h>
#include <stdint.h>

#include "record.h"

void suspend_ask(int client);      /* of SUSPEND; it is carried out whether or not that client stays, and answers all who ask */
bool suspend_in_hand(void);        /* nothing else is taken meanwhile */
void suspend_refused(int error, const char *text); /* the init's word: it goes on */
void suspend_client_left(int client);

/* A stop of what is on the disk, and recorded nowhere as that yet: it ends here. False: it is not there. */
bool suspend_stopped(enum stop_cause cause);

/* The job's last word was that it is on the disk: what stands in the place of a record. False: it cannot be written. */
bool suspend_end(void);
bool suspend_may_resume(void); /* its init is there: else nothing is taken away, and it is saved as before */
bool suspend_resumed(void); /* the init has the job again: what it came from goes, and it may run. False: it may not */

#endif
