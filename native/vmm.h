/* The virtual machine monitor as a child: its process, and what it and the guest's console say. */
#ifndef DMS_VMM_H
#define DMS_VMM_H

#include <stdbool.h>
#include <sys/types.h>

/* Where the monitor finds its ends of channel and console; what was passed to us from VMM_PASSED on it has as it is. */
enum { VMM_CHANNEL = 3, VMM_CONSOLE = 4, VMM_PASSED = 6 };

struct vmm {
    pid_t pid;             /* 0 once it is reaped */
    int channel;           /* a stream socket, non-blocking */
    int console, words;    /* what the guest's console and the monitor itself say, -1 once ended */
    int status;            /* of wait(2), once it is reaped */
};

struct vmm_owner {
    uid_t uid; /* 0: it stays who we are */
    gid_t gid;
    gid_t group; /* a further one, 0: none */
};

/* Starts it; -1 with errno. It dies with us. */
int vmm_start(struct vmm *vmm, char **argv, const struct vmm_owner *owner);

/* Takes what console (or words) has; the first part of it goes into the file `console` in the folder. */
void vmm_listen(int *fd, int folder);

/* The last line that was heard, printable, for an error; empty where there is none. */
const char *vmm_last_words(void);

void vmm_kill(struct vmm *vmm); /* and waits for its end */

#endif
