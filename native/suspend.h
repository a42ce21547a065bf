/* A job that is suspended to disk: we end, and another shim goes on with it in the same folder. */
#ifndef DMS_SUSPEND_H
#define DMS_SUSPEND_H

#include <stdbool.h>
#include <stdint.h>

void suspend_ask(int client);      /* of SUSPEND; it is carried out whether or not that client stays */
bool suspend_in_hand(void);        /* nothing else is taken meanwhile */
void suspend_refused(int error, const char *text); /* the init's word: it goes on */
void suspend_client_left(int client);

void suspend_end(void);     /* the job's last word was that it is on the disk: what stands in the place of a record */
bool suspend_resumed(void); /* the init has the job again: what it came from goes, and it may run. False: it may not */

#endif
