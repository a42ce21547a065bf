/* A guest's way to the disk and back, docs/protocol.md, section 10. */
#ifndef DMS_VM_SUSPEND_H
#define DMS_VM_SUSPEND_H

#include <stdbool.h>

#include "vm_options.h"
#include "vmm.h"

/* The shim asks for it: the guest is told to stand still, or that is refused. `reads`: the job's input is open. */
void vm_suspend_begin(bool job_runs, bool reads);

bool vm_suspend_waits(void);   /* for the guest's word; nothing else may be sent to it meanwhile */
int vm_suspend_patience(void); /* ms, -1: nothing is waited for; once it is over: */
void vm_suspend_late(void);
void vm_suspend_stopped(void); /* the shim has a stop in hand: it comes before */

/* The same while a guest that stands still is written, when nobody hears the shim: it has said something, or is gone. */
bool vm_suspend_is_stopped(int report);
#define VM_SUSPEND_STOPPED "it is being stopped"

/* The guest stands still, and all that it said is passed on. Returns where it goes on, after all. */
void vm_suspend_frozen(struct vmm *vmm, const struct vm_options *options, int report, int folder);

/* Starts the monitor with a guest from the disk, and lets it go on once the shim says so. Fails by vm_fail(). */
void vm_suspend_restore(struct vmm *vmm, const struct vm_options *options, int report, int folder, int signals);

#endif
