/* A word to the API of a Firecracker, over its Unix socket; what it answers is of no use to us. */
#ifndef DMS_VM_API_H
#define DMS_VM_API_H

#include "vm_options.h"

void vm_api_resume(const struct vm_options *options); /* the guest's processors; of a machine that runs nothing comes */
void vm_api_press(const struct vm_options *options);  /* Ctrl-Alt-Del: a guest with a keyboard shuts down */

#endif
