/* The virtual machine monitor as a child: its process, and what it and the guest's console say. */
#ifndef DMS_VMM_H
#define DMS_VMM_H

#include <stdbool.h>
#include <sys/types.h>

/* Where the monitor finds its ends of channel, console and commands; what was passed to us from VMM_PASSED on it has as it is. */
enum { VMM_CHANNEL = 3, VMM_CONSOLE = 4, VMM_MONITOR = 5, VMM_PASSED = 6 };

struct vmm {
    pid_t pid;             /* 0 once it is reaped */
    int channel;           /* a stream socket, non-blocking; -1: the guest has not called yet, or is none of ours */
    int listening;         /* where it will call, -1 once it has */
    int monitor;           /* where it takes commands, -1: nowhere */
    int console, words;    /* what the guest's console and the monitor itself say, -1 once ended */
    int status;            /* of wait(2), once it is reaped */
};

struct vmm_owner {
    uid_t uid; /* 0: it stays who we are */
    gid_t gid;
    gid_t group; /* a further one, 0: none */
    const char *network; /* the file of its network namespace, NULL: ours */
};

struct vmm_place {
    const char *folder; /* where it runs, NULL: where we are */
    const char *socket; /* in that folder, where the guest's agent calls; NULL: the channel is a descriptor */
    uid_t caller;       /* who connects to it */
    bool monitored;     /* it takes commands at VMM_MONITOR */
};

/* Starts it; -1 with errno. It dies with us. `wants_channel`: else the guest has no agent. */
int vmm_start(struct vmm *vmm, char **argv, const struct vmm_owner *owner, const struct vmm_place *place, bool wants_channel);

int vmm_enter_network(const char *file); /* a namespace's; -1 with errno */

/* Takes the agent's call, the first one alone. */
void vmm_accept(struct vmm *vmm);

/* For another call, where the first one has ended or will; -1 with errno. */
int vmm_listen_anew(struct vmm *vmm, const struct vmm_place *place);

/* Takes what console (or words) has; the first part of it goes into the file `console` in the folder. */
void vmm_listen(int *fd, int folder);

void vmm_listen_to_the_end(int *fd, int folder); /* or until it says nothing for a second */

/* The same for what was read already. */
void vmm_keep(const char *text, size_t length, int folder);

/* The last line that was heard, printable, for an error; empty where there is none. */
const char *vmm_last_words(void);

void vmm_kill(struct vmm *vmm); /* and waits for its end */
void vmm_reap(struct vmm *vmm, int signals); /* after SIGCHLD, where no other signal is heard */

#endif
