/* The calls by which a Firecracker that has no machine yet goes on from a snapshot. */
#ifndef DMS_VM_FIRE_H
#define DMS_VM_FIRE_H

#include "vm_options.h"
#include "vmm.h"

enum vm_fired { FIRED, FIRE_TOLD, FIRE_FAILED };

/* Makes those of the options, one after another, as soon as its socket is there. FIRE_TOLD: the shim wants all to end. */
enum vm_fired vm_fire(struct vmm *vmm, const struct vm_options *options, int report, int folder, int signals);

/* The same for one call, once it is known of whom, and at most so many ms. */
void vm_fire_know(struct vmm *vmm, const struct vm_options *options, int report, int folder, int signals);
enum vm_fired vm_fire_one(const struct vm_call *call, int most);

/* Why that failed, printable; empty where the monitor itself said so last. */
const char *vm_fire_problem(void);

#endif
