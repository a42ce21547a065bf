/* A session whose starter can hand nothing over: its init calls who asked for it, and gets its streams from there. */
#ifndef DMS_CALLING_H
#define DMS_CALLING_H

#include <stddef.h>
#include <sys/types.h>

/* A connection to the Unix socket at `path`, or -1. */
int calling_connect(const char *path);

/* As recv(2). The three descriptors that come along become the standard ones. */
ssize_t calling_receive(int connection, void *bytes, size_t size);

#endif
