/* A guest of Firecracker's on its way to the disk and back: docs/protocol.md, section 10.
 *
 * A snapshot ends its agent's call. So whatever comes of it, the agent calls again, greets, and is told to go on then. */
#ifndef DMS_VM_KEPT_H
#define DMS_VM_KEPT_H

#include <stdbool.h>
#include <stddef.h>

#include "vm_options.h"
#include "vmm.h"

/* Writes the guest, which stands still, to the file `name` of the folder `at`: 0, or an errno and why. Its memory with
 * holes, and behind it the state of its devices (src/dms_executor/firecracker/restoring.py). ECANCELED: the report has
 * something to be read meanwhile; a call that is under way is waited for first, unless that is the job's end. */
int vm_kept_save(const struct vm_options *options, int report, int at, const char *name, char *why, size_t size);

/* It could not be written, and lives on. False: that is not to be had. Its agent calls again where `channel` is -1 now. */
bool vm_kept_go_on(struct vmm *vmm, const struct vm_options *options);

/* Starts a Firecracker that has the guest, standing still. False: why stands there. */
bool vm_kept_load(struct vmm *vmm, const struct vm_options *options, int report, int folder, int signals);

/* Has that one run; its agent will call. */
bool vm_kept_run(void);

int vm_kept_patience(void); /* ms until the agent has to have called, -1: nobody waits for it */

#endif
