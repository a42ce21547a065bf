/* A terminal of the guest's, as its client on the host sees it: one of the host's that changes nothing of what passes. */
#ifndef DMS_VM_TERMINAL_H
#define DMS_VM_TERMINAL_H

#include <stdint.h>

/* Makes one of `COLUMNSxROWS`, hands its master over on the report socket (INIT_TERMINAL), and takes it as our descriptors
 * 0 and 1, non-blocking. What we are told of its size comes as SIGWINCH. 0, or -1 with errno. */
int vm_terminal_take(int report, const char *size);

/* Its size now, as GUEST_RESIZE has it: u32 columns, u32 rows. 0, or -1. */
int vm_terminal_size(uint8_t payload[8]);

#endif
