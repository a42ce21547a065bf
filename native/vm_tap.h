/* A device that a monitor opens by its name, in a network namespace of the machine's own. */
#ifndef DMS_VM_TAP_H
#define DMS_VM_TAP_H

#include <sys/types.h>

/* This process and its children move there. `network`: the namespace's file, NULL: a new one. -1 with errno. */
int vm_tap_make(const char *name, uid_t owner, const char *network);

#endif
