/* Signals as the only word to an init: `dms-init -k SIGNUM [GRACE_MS]`: sent into a running container to signal its job, or
 * with 0 to an init that waits, so that its job never runs. docs/protocol.md, section 3. */
#ifndef DMS_SENDING_H
#define DMS_SENDING_H

#include <signal.h>
#include <stdbool.h>
#include <sys/signalfd.h>

/* The exit code of the process. */
int sending(const char *signum, const char *grace);

/* Waits, with all signals blocked, for SIGCONT, which lets the job go: 0. A signal that ends comes: its number. Nobody
 * comes: -1. */
int sending_await(const sigset_t *all);

bool sending_ends_by_default(int signum);

/* Whether it is the first by somebody beyond our pid namespace, who has no number in it: a node that ends the pod, not who
 * executed something here. */
bool sending_is_news(const struct signalfd_siginfo *info);

#endif
