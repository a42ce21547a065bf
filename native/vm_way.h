/* The guest of a monitor that has but a tap device takes the place that the network program gave its namespace. */
#ifndef DMS_VM_WAY_H
#define DMS_VM_WAY_H

/* In this process's network namespace, in which `tap` is up. `interface`: the program's. `given`, as text: its address,
 * mask and gateway, and an address that the namespace itself has towards the guest. -1 with errno. */
enum { VM_WAY_ADDRESS, VM_WAY_MASK, VM_WAY_GATEWAY, VM_WAY_OWN, VM_WAY_WORDS };
int vm_way_make(const char *tap, const char *interface, char *const given[VM_WAY_WORDS]);

#endif
