#include "suspend.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "clients.h"
#include "complain.h"
#include "frame.h"
#include "input.h"
#include "log.h"
#include "record.h"
#include "session.h"
#include "shim.h"
#include "sys.h"

static bool asked[CLIENT_SLOTS]; /* whoever asks while it is in hand gets the same answer */
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
    else if (in_hand && shim.cause == CAUSE_NONE)
        asked[client] = true;
    else if (shim.phase != PHASE_RUNNING || shim.job_reported || shim.init_gone)
        client_refuse(client, ESRCH, "the job does not run");
    else if (shim.cause != CAUSE_NONE)
        client_refuse(client, ESRCH, "it is being stopped");
    else if (sessions_are_open())
        client_refuse(client, EBUSY, "a further command runs in it");
    else if (input_is_busy())
        client_refuse(client, EBUSY, "somebody is attached to it, or its input is not read yet");
    else if (!tell_init(FRAME_INIT_SUSPEND))
        client_refuse(client, ESRCH, "its init does not listen");
    else {
        in_hand = true;
        asked[client] = true;
    }
}

static void answer(uint8_t type, const uint8_t *payload, size_t length)
{
    for (int client = 0; client < CLIENT_SLOTS; client++)
        if (asked[client])
            client_send(client, type, payload, length);
    memset(asked, 0, sizeof asked);
}

void suspend_refused(int error, const char *text)
{
    uint8_t payload[4 + FRAME_TEXT_MAX];
    answer(FRAME_ERROR, payload, error_payload(payload, error, text));
    in_hand = false;
}

void suspend_client_left(int client)
{
    asked[client] = false;
}

bool suspend_stopped(enum stop_cause cause)
{
    if (!shim.suspended)
        return false;
    shim.suspended = false;
    shim.cause = cause;
    shim.our_kill = shim.killed = true;
    shim.lost = "it was saved to disk when it was ended: what it had not brought home is gone";
    return true;
}

bool suspend_end(void)
{
    char text[160];
    int length = snprintf(text, sizeof text, "{\"version\":1,\"started_at\":%llu,\"suspended_at\":%llu}\n",
                          (unsigned long long)shim.started_at, (unsigned long long)sys_realtime());
    log_suspend();
    if (record_put_as("suspended", text, (size_t)length) != 0) {
        int error = errno;
        complain("what it is suspended to could not be recorded: %m");
        suspend_refused(error, "it was saved, and that cannot be recorded: the job is lost");
        return false;
    }
    answer(FRAME_OK, NULL, 0);
    return true;
}

bool suspend_may_resume(void)
{
    struct pollfd report = {.fd = shim.report, .events = POLLRDHUP};
    return !shim.init_gone && shim.report >= 0 && poll(&report, 1, 0) == 0;
}

bool suspend_resumed(void)
{
    if (sys_sync_folder(shim.folder) != 0)
        complain("fsync of the folder: %m");
    return tell_init(FRAME_INIT_GO);
}
