/* Provision scripts: the init runs them before the job, and once the first of them runs, the job is said to. */
#include <stdio.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "shim.h"
#include "sys.h"

#define INIT_MS 10000 /* that the init has for its own end */

static bool unreached(void)
{
    if (shim.job_reported)
        return false;
    if (shim.held_start != 0)
        life_release_start();
    shim.job_reported = shim.unreached = true;
    shim.ended_at = sys_realtime();
    timer_sooner(TIMER_RUNTIME, INIT_MS);
    return shim.cause == CAUSE_NONE; /* else why it ended is known, and is no fault of the script's */
}

void provision_script(int status, const char *name)
{
    if (!unreached())
        return;
    if (WIFSIGNALED(status))
        snprintf(shim.error, sizeof shim.error, "provision script %s was ended by signal %d", name, WTERMSIG(status));
    else
        snprintf(shim.error, sizeof shim.error, "provision script %s exited with %d", name, WEXITSTATUS(status));
}

void provision_unreached(int error, const char *what)
{
    if (!unreached())
        return;
    snprintf(shim.error, sizeof shim.error, "%s", what);
    shim.error_number = error;
}

void provision_halt(void)
{
    uint8_t frame[FRAME_HEADER];
    frame_header(frame, FRAME_INIT_HALT, 0);
    if (shim.report >= 0)
        send(shim.report, frame, sizeof frame, MSG_DONTWAIT | MSG_NOSIGNAL);
}
