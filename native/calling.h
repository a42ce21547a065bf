/* A session whose starter can hand nothing over: its init calls who asked for it, and gets its streams from there. */
#ifndef DMS_CALLING_H
#define DMS_CALLING_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

/* A connection to the Unix socket at `path`, or -1. What follows in it, `=NAME` each, are variables that the job has and
 * the session has not: they are taken out of the environment. */
int calling_connect(char *path);

/* As recv(2). The three descriptors that come along become the standard ones. */
ssize_t calling_receive(int connection, void *bytes, size_t size);

/* Whether a session may run: it is in its group, or was told to go. False: who asked for it has hung up. */
bool calling_await_go(int connection, int group);

#endif
