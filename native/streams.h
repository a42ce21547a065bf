/* The job's stdout and stderr, pipes whose content goes to the log as it comes, and its terminal, whose output is one
 * stream: stdout. */
#ifndef DMS_STREAMS_H
#define DMS_STREAMS_H

#include <stdbool.h>

#include "idmap.h"

/* Fills `out` with the write ends of stdout and stderr, for the job. */
int streams_open(int epoll, const struct idmap *idmap, int out[2]);
int streams_terminal(int master); /* from now on that is read, too; 0, or -1 with errno */
void stream_ready(int index);      /* 0 stdout, 1 stderr, 2 the terminal */
bool streams_closed(void);
void streams_finish(void); /* takes what is there now and closes them */

/* Called before the loop sleeps: gives the buffer's pages back after a burst. */
bool streams_buffer_dirty(void);
void streams_buffer_release(void);

#endif
