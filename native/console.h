/* A job's open stdin, or its terminal, where there is no shim to hold it: pid 1 does, and whoever attaches writes to a
 * FIFO. docs/protocol.md, section 3. */
#ifndef DMS_CONSOLE_H
#define DMS_CONSOLE_H

#include <stdbool.h>

/* Opens the FIFOs `stdin` and `control` of `folder`. `size` NULL: descriptor 0 becomes a pipe, into which goes what it
 * was before, then what is written to the FIFO. Else a terminal of that size is made and put into `terminal`; what the
 * job writes there goes to descriptor 1. What is to be polled for POLLIN, or -1 with errno. */
int console_open(const char *folder, const char *size, int *terminal);

bool console_ready(void); /* there is something to pass on; true: call it again, others are to be served before */

/* The job is over. Kills what it left, and passes on what was written to its terminal, to the last byte. */
void console_finish(void);

/* Payload of INIT_WROTE: what of a terminal's output was passed on. Its length. */
unsigned console_counted(unsigned char *payload);

#endif
