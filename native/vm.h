/* Further commands in a guest: each has a connection to `dms-vm`, and a channel of the guest's. */
#ifndef DMS_VM_H
#define DMS_VM_H

#include <poll.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "frame.h"

enum { VM_CLIENTS = 64, VM_CLIENT_POLLS = VM_CLIENTS + 1 };

/* vm_out.c: the way to the guest. What finds no room is lost. */
bool vm_has_room(void); /* for a whole frame */
void vm_give(uint16_t channel, uint8_t type, const uint8_t *payload, size_t length);
bool vm_out_waits(void); /* something of it */
void vm_out_flush(int channel);

/* vm.c */
void vm_give_go(void); /* the time and random numbers, of this moment */
void vm_tell(uint8_t type, const uint8_t *payload, size_t length); /* the shim */
_Noreturn void vm_fail(const char *what, const char *detail);

/* vm_clients.c */
void vm_clients_listen(int folder); /* at the socket `exec` in the folder */
void vm_clients_wait(struct pollfd *out, bool job_runs);
void vm_clients_serve(const struct pollfd *waited);
bool vm_clients_busy(void); /* one is here, or its command has not come to its end */
bool vm_clients_hear(const struct frame *frame); /* from the guest; false: there is no such channel */


/* vm_raw.c: a guest of the user's own, without our agent. Never returns. */
struct vmm;
struct vm_options;
_Noreturn void vm_raw(struct vmm *vmm, const struct vm_options *options, int report, int folder, int signals);

#endif
