/* What stands between a job's output and the way out of its container, for an init that has no shim: nothing, lines of
 * text, or a passage that counts. And a terminal's, which is counted as well. docs/protocol.md, section 3. */
#ifndef DMS_OUTPUT_H
#define DMS_OUTPUT_H

#include <poll.h>
#include <stdbool.h>

#include "lines.h"
#include "passing.h"

enum { OUTPUT_POLLED = LINES_POLLED + PASSING_POLLED };

/* 0, or -1 with errno. */
int output_begin(bool in_lines, bool counted, bool has_terminal);

/* In the job's own process. */
void output_take_over(void);

void output_wait_for(struct pollfd polled[OUTPUT_POLLED]);
void output_move(const struct pollfd polled[OUTPUT_POLLED]);

/* The job is over. Puts what it wrote in all into `payload`, of INIT_WROTE: its length, or 0 where nobody counts or can
 * tell. The rest of the job is dead then. */
unsigned output_finish(unsigned char *payload);

/* Before the end: what is still here. Blocks while nobody takes it. */
void output_flush(void);

#endif
