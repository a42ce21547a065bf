/* A job's stdout and stderr on their way through its init, which counts them: who reads them far behind, through others
 * that may die, can tell then whether it has all. docs/protocol.md, section 3. */
#ifndef DMS_PASSING_H
#define DMS_PASSING_H

#include <poll.h>
#include <stdbool.h>

enum { PASSING_POLLED = 2 };

/* Makes the job's pipes. 0, or -1 with errno. */
int passing_begin(void);
bool passing_on(void);

/* In the job's own process: its stdout and stderr are the pipes. */
void passing_take_over(void);

/* What to wait for, and what to do when something of it came. */
void passing_wait_for(struct pollfd polled[PASSING_POLLED]);
void passing_move(const struct pollfd polled[PASSING_POLLED]);

/* Payload of INIT_WROTE: what of either stream was passed on or waits here. Its length. */
unsigned passing_counted(unsigned char *payload);

/* Before the end: what waits here. Blocks while nobody takes it. */
void passing_drain(void);

#endif
