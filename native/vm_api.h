/* A word to the API of a Firecracker, over its Unix socket. */
#ifndef DMS_VM_API_H
#define DMS_VM_API_H

#include "vm_options.h"

/* The connection on which the answer will come; -1: there is nobody. `body` NULL: a question. */
int vm_api_say(const struct vm_options *options, const char *call, const char *body);

/* Those whose answer is of no use to us. */
void vm_api_resume(const struct vm_options *options); /* the guest's processors; of a machine that runs nothing comes */
void vm_api_press(const struct vm_options *options);  /* Ctrl-Alt-Del: a guest with a keyboard shuts down */

#endif
