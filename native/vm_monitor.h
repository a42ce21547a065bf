/* What QEMU is told over QMP by dms-vm: to write a guest's state to a file, and to take it from one.
 * https://www.qemu.org/docs/master/interop/qmp-qapi-spec.html */
#ifndef DMS_VM_MONITOR_H
#define DMS_VM_MONITOR_H

/* The other end of `report` is who wants it: when that hangs up, nobody does. Each 0, or -1 with errno and a
 * text of why. */
/* The guest stands still then. ECANCELED: the report has something to be read meanwhile, which comes before. */
int vm_monitor_save(int monitor, int file, int report, char *why, unsigned long size);
int vm_monitor_restore(int monitor, int number, int report, char *why, unsigned long size); /* `number`: QEMU's descriptor */
/* What was begun and given up is over then. */
int vm_monitor_go_on(int monitor, int report, char *why, unsigned long size);

void vm_monitor_drain(int *monitor); /* what it says unasked; -1 once it has gone */

#endif
