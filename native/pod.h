/* What `dms-pod` begins, and what it does with it: docs/protocol.md, section 11. */
#ifndef DMS_POD_H
#define DMS_POD_H

#include "guest.h"

/* pod_begin.c: NULL, or what cannot be done, with errno. A command, under an init that reports; a helper for files; the
 * way to the job's own input, whose `control` is where its init is asked for other things (-1: there is none). */
const char *pod_command(const struct guest_config *config, struct guest_job *command);
const char *pod_helper(const struct guest_config *config, struct guest_job *helper);
const char *pod_attach(const struct guest_config *config, struct guest_job *input, int *control);

#endif
