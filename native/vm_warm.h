/* A guest from a snapshot that was taken when its agent was ready, and the making of such a snapshot. */
#ifndef DMS_VM_WARM_H
#define DMS_VM_WARM_H

#include <stdbool.h>

#include "vm_options.h"
#include "vmm.h"

/* Starts the monitor with the words that a snapshot takes, and waits until its agent has taken its disks and answers. False:
 * that came to nothing. Why stands in the file `cold` of the folder then, nothing of it is left, and `options->argv` has
 * those of a boot alone. */
bool vm_warm_start(struct vmm *vmm, struct vm_options *options, int report, int folder, int signals);

/* Keeps a guest whose agent is told nothing, from which somebody takes a snapshot. STARTED says that it is ready. Ends when
 * the report's other end is shut, or after ten minutes. */
_Noreturn void vm_template(struct vmm *vmm, int report, int folder, int signals);

#endif
