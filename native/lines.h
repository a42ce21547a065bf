/* Output and report of a job whose only way out is its container's log: lines of text. docs/protocol.md, section 3. */
#ifndef DMS_LINES_H
#define DMS_LINES_H

#include <poll.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { LINES_POLLED = 3 };

/* Makes the job's pipes, which it does not get where it has a terminal. 0, or -1 with errno. */
int lines_begin(bool has_terminal);
int lines_inlet(void); /* what is written there is stdout */
bool lines_on(void);

/* In the job's own process: its stdout and stderr are the pipes. */
void lines_take_over(void);

/* What to wait for, and what to do when something of it came. */
void lines_wait_for(struct pollfd polled[LINES_POLLED]);
void lines_move(const struct pollfd polled[LINES_POLLED]);

/* A frame of the report, as a line into the log and into `file` (-1: none). */
void lines_report(int file, const uint8_t *frame, size_t length);

/* Before the end: what the job has written, what the report said that the end needs, and what is still here. Blocks while
 * nobody reads the log. */
void lines_drain(void);

/* Payload of INIT_WROTE: what of either stream is in the log. Its length. */
unsigned lines_counted(uint8_t *payload);
void lines_flush(void);

#endif
