#include "suspend.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "complain.h"
#include "frame.h"
#include "input.h"
#include "log.h"
#include "record.h"
#include "session.h"
#include "shim.h"
#include "sys.h"

enum { NOBODY = -1 };

static int asked_by = NOBODY;
static bool in_hand;

bool suspend_in_hand(void)
{
    return in_hand;
}

static bool tell_init(uint8_t type)
{
    uint8_t frame[FRAME_HEADER];
    frame_header(frame, type, 0);
    return shim.report >= 0 && send(shim.report, frame, sizeof frame, MSG_DONTWAIT | MSG_NOSIGNAL) == (ssize_t)sizeof frame;
}

void suspend_ask(int client)
{
    if (!shim.config.suspends)
        client_refuse(client, EOPNOTSUPP, "this job cannot be suspended");
    else if (shim.phase != PHASE_RUNNING || shim.job_reported || shim.init_gone)
        client_refuse(client, ESRCH, "the job does not run");
    else if (shim.cause != CAUSE_NONE)
        client_refuse(client, ESRCH, "it is being stopped");
    else if (in_hand)
        client_refuse(client, EBUSY, "it is being suspended");
    else if (sessions_are_open())
        client_refuse(client, EBUSY, "a further command runs in it");
    else if (input_is_busy())
        client_refuse(client, EBUSY, "somebody is attached to it, or its input is not read yet");
    else if (!tell_init(FRAME_INIT_SUSPEND))
        client_refuse(client, ESRCH, "its init does not listen");
    else {
        in_hand = true;
        asked_by = client;
    }
}

void suspend_refused(int error, const char *text)
{
    if (in_hand && asked_by != NOBODY)
        client_refuse(asked_by, error, text);
    in_hand = false;
    asked_by = NOBODY;
}

void suspend_client_left(int client)
{
    if (client == asked_by)
        asked_by = NOBODY;
}

void suspend_end(void)
{
    char text[160];
    int length = snprintf(text, sizeof text, "{\"version\":1,\"started_at\":%llu,\"suspended_at\":%llu}\n",
                          (unsigned long long)shim.started_at, (unsigned long long)sys_realtime());
    log_suspend();
    if (record_put_as("suspended", text, (size_t)length) != 0)
        complain("what it is suspended to could not be recorded: %m");
    if (asked_by != NOBODY)
        client_send(asked_by, FRAME_OK, NULL, 0);
}

bool suspend_resumed(void)
{
    if (sys_sync_folder(shim.folder) != 0)
        complain("fsync of the folder: %m");
    return tell_init(FRAME_INIT_GO);
}
