/* The one execution that a shim keeps; `run.c` brings it up and turns the loop, `life.c` decides, `end.c` ends it. */
#ifndef DMS_SHIM_H
#define DMS_SHIM_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "clients.h"
#include "config.h"
#include "record.h"
#include "timers.h"

enum phase { PHASE_CREATED = 1, PHASE_GOING = 2, PHASE_RUNNING = 3, PHASE_ENDING = 4, PHASE_SUSPENDING = 5 };

struct shim {
    struct config config;
    bool in_userns; /* since its birth, as its caller is not root */
    int folder, epoll;
    enum phase phase;

    pid_t joiner;  /* the child that takes us out of our caller's control groups, 0 once that is done */
    uint64_t held_start; /* the job runs, but is not said to as long as its caller's end could take us along */
    pid_t runtime; /* ARGV's process, 0 once it is reaped */
    pid_t init;    /* the job's init (or the job itself), 0 while unknown */
    int init_handle; /* a pidfd: whoever is its parent, it cannot be taken for a stranger */
    bool init_gone, started, failed;
    uint64_t going_at, started_at, ended_at;

    int report; /* -1: none, or it hung up */
    bool job_reported;
    int job_status, init_status; /* as of wait(2); -1 unknown */

    enum stop_cause cause;
    uint32_t stop_signal; /* to be sent as soon as there is an init; 0: was sent */
    bool killed, our_kill;
    bool suspended; /* the init's last word: the job is on the disk */
    const char *lost; /* what is to be said of its end beside how it ended, NULL: nothing */
    bool unreached; /* a provision script ran, and the job itself never will */

    struct usage reported; /* what the init says of it: a guest's own figures */

    int error_number;
    char error[FRAME_TEXT_MAX + 1];
};

extern struct shim shim;

/* life.c */
void life_go(void);
void life_stop(enum stop_cause cause, uint32_t signum, uint64_t grace_ms);
bool life_signal(uint32_t signum); /* false: nothing runs */
void life_reap(void);
void life_timer(enum timer timer);
void life_progress(void); /* goes on to the end once nothing is left to wait for */
__attribute__((format(printf, 2, 3))) void life_fail(int error, const char *format, ...);
void life_started(uint64_t stamp);
void life_release_start(void); /* says what was held back: the joiner is done, or the job has ended */
void life_init_known(pid_t pid);

/* report.c */
void report_ready(void);
bool report_signal(uint32_t signum);

/* provision.c: scripts that run before the job */
void provision_script(int status, const char *name);  /* it failed, or was stopped */
void provision_unreached(int error, const char *what); /* what comes after a script cannot be executed */
void provision_halt(void);                             /* nothing further is started: a stop is in hand */

/* end.c */
void end_settle(void); /* nothing of the job is left: usage, then the streams' rest */
void end_streams(void); /* a stream closed, or their time is up */
_Noreturn void end_unborn(void); /* nothing has run: leaves no trace */

#endif
