/* The job's stdin where it stays open, or its terminal: what the request and attached clients give it. */
#ifndef DMS_INPUT_H
#define DMS_INPUT_H

#include <stdbool.h>

#include "config.h"
#include "frame.h"

/* With INPUT_PIPE: puts a pipe in the place of the configured stdin, which is fed into it first. 0, or -1 with errno. */
int input_open(struct config *config, int epoll);

/* The master that the job's init has made; it belongs to the input from now on. */
void input_terminal(int master);

void input_ready(void); /* there is something to be passed on, or room for it */

/* ATTACH, CLOSE_INPUT and RESIZE. */
void input_serve(int client, const struct frame *frame, bool job_runs);
bool input_is_busy(void); /* there is a source of it, or what came of one is not taken yet */
void input_client_left(int client); /* what it has written still counts */

#endif
