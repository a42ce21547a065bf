/* The network of a job that has one of its own: a namespace that the shim makes and pins in the room, and the program
 * (pasta, slirp4netns) that connects it to the host's by ordinary sockets. It is a child of ours, dies with us, and ends
 * with the job. */
#ifndef DMS_NETWORK_H
#define DMS_NETWORK_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "config.h"

/* Makes the namespace, starts the program and waits until it says that it is ready. -1 with `errno` and `what`. */
int network_up(const struct config *config, int folder, char *what, size_t size);

/* Ends the program and waits for its end, so that the ports are free. */
void network_down(void);

/* True if that child was the program: it has ended. Complains if the job could still have used it. */
bool network_reaped(pid_t pid, int status, bool expected);

/* The program's pid, 0: there is none. */
pid_t network_pid(void);

#endif
