/* The private mount namespace: the room (a tmpfs), what is bound into it, overlays. */
#ifndef DMS_MOUNTS_H
#define DMS_MOUNTS_H

#include <stdbool.h>
#include <stddef.h>

#include "config.h"

bool mounts_wanted(const struct config *config);

/* After userns_enter() with a new mount namespace, before all else here: what is to be bound must be opened in it. */
int mounts_reopen(struct config *config, char *what, size_t size);

/* Clones the trees of all binds; must come before mounts_enter(), since only mounts of one's own namespace can be
 * cloned. `userns`: its mapping is that of the binds that are to be id-mapped. All return 0, or -1 with errno and a text
 * of what failed. */
int mounts_clone(struct config *config, int userns, char *what, size_t size);

/* Opens a stdin that came as O_PATH, read-only by its mount: a job may open /proc/self/fd/0 once more, with whatever
 * access the file and the mount that it was opened on allow (proc_pid_fd(5)). As mounts_clone(). */
int mounts_stdin(struct config *config, int userns, char *what, size_t size);

int mounts_enter(struct config *config, char *what, size_t size);

#endif
