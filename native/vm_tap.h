/* A network namespace of the machine's own with one device, at whose other end nobody is. */
#ifndef DMS_VM_TAP_H
#define DMS_VM_TAP_H

#include <sys/types.h>

int vm_tap_make(const char *name, uid_t owner); /* for this process and its children; -1 with errno */

#endif
