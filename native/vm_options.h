/* What `dms-vm` is told on its command line; docs/protocol.md, section 10. */
#ifndef DMS_VM_OPTIONS_H
#define DMS_VM_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>

#include "vmm.h"

enum { VM_CALLS = 32 };

struct vm_call {
    const char *call, *body; /* method and path; JSON */
};

struct vm_options {
    bool input;        /* -i: the job's stdin is fed to it */
    const char *terminal; /* -t: COLUMNSxROWS, the job has one */
    bool raw;          /* -r: there is no agent, the console is the job's output */
    int restored;      /* -s: the monitor's descriptor with the guest that goes on, 0: it begins */
    bool kept;         /* -b: the calls of -C bring the job's own guest back, which was saved */
    bool template;     /* -k: nobody tells its agent anything, a snapshot is taken of it */
    unsigned warm, cold; /* -w: argv ends in so many words of a start from a snapshot, 0: it boots; and of a boot */
    const char *warm_folder; /* -W: where the monitor starts from a snapshot, NULL: where it boots */
    struct vm_call calls[VM_CALLS]; /* -C: of the monitor's API, for a start from a snapshot */
    size_t call_count;
    const char *tap;   /* -n: the monitor's network device, NULL: it has none of ours */
    const char *api;   /* -a: the socket of the monitor's API in its folder; NULL: there is none */
    struct vmm_owner owner;
    struct vmm_place place;
    char **argv; /* of the monitor */
};

/* Joins the control groups of `-j` on the way. NULL, or what is wrong, with errno. */
const char *vm_options_read(char **argv, struct vm_options *options);

#endif
