/* What the job's init says over its report socket, and the signals that it is asked to send. */
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "complain.h"
#include "input.h"
#include "shim.h"
#include "streams.h"
#include "suspend.h"
#include "sys.h"

#define REPORT_BUFFER (FRAME_HEADER + 4 + FRAME_TEXT_MAX)

static uint8_t bytes[REPORT_BUFFER];
static size_t have;
static int descriptor = -1; /* came with what was received last */
static bool has_terminal;

static void hang_up(void)
{
    close(shim.report);
    shim.report = -1;
    have = 0;
    /* An init that is ours to reap tells more by its status. A runtime that stays must not hold its zombie for ever. */
    if (shim.started || shim.failed || shim.init != 0)
        timer_sooner(TIMER_RUNTIME, 10000);
    else if (shim.runtime == 0)
        life_fail(0, "the job's init went away before it started the job");
}

/* The init lives among the job's processes: what it hands over is believed to be a terminal when it answers as one. */
static void keep_terminal(void)
{
    unsigned number;
    int master = descriptor;
    bool wanted = shim.config.input == INPUT_TERMINAL && !has_terminal;
    descriptor = -1;
    if (wanted && master >= 0 && ioctl(master, TIOCGPTN, &number) == 0 && streams_terminal(master) == 0) {
        has_terminal = true;
        input_terminal(master);
        return;
    }
    if (wanted)
        life_fail(errno, "the job's terminal did not arrive");
    if (master >= 0)
        close(master);
}

static void keep_usage(const uint8_t *payload)
{
    for (int key = 0; key < USAGE_KEYS; key++) {
        uint64_t value = get_u64(payload + 8 + 8 * key); /* behind a stamp */
        shim.reported.known[key] = value != UINT64_MAX;
        shim.reported.value[key] = value;
    }
}

static void said(const struct frame *frame)
{
    char text[FRAME_TEXT_MAX + 1];
    switch (frame->type) {
    case FRAME_INIT_STARTED:
        life_started(get_u64(frame->payload));
        break;
    case FRAME_INIT_FAILED:
        memcpy(text, frame->payload + 4, frame->length - 4);
        text[frame->length - 4] = 0;
        if (shim.started || shim.held_start != 0)
            provision_unreached((int)(get_u32(frame->payload) & 0xfff), text);
        else
            life_fail((int)(get_u32(frame->payload) & 0xfff), "%s", text);
        break;
    case FRAME_INIT_SCRIPT:
        memcpy(text, frame->payload + 4, frame->length - 4);
        text[frame->length - 4] = 0;
        provision_script((int)(get_u32(frame->payload) & 0xffff), text);
        break;
    case FRAME_INIT_TERMINAL:
        keep_terminal();
        break;
    case FRAME_INIT_USAGE:
        keep_usage(frame->payload);
        break;
    case FRAME_INIT_EXITED:
        if (shim.job_reported)
            break;
        if (shim.held_start != 0)
            life_release_start();
        shim.job_reported = true;
        shim.job_status = (int)(get_u32(frame->payload) & 0xffff);
        shim.ended_at = sys_realtime();
        timer_sooner(TIMER_RUNTIME, 10000);
        break;
    case FRAME_INIT_SUSPENDED:
        shim.suspended = true;
        if (shim.cause != CAUSE_NONE || !suspend_in_hand())
            suspend_stopped(shim.cause); /* it came meanwhile, and this was its end */
        else
            timer_clear(TIMER_TIMEOUT);
        break;
    case FRAME_INIT_AWAKE:
        memcpy(text, frame->payload + 4, frame->length - 4);
        text[frame->length - 4] = 0;
        suspend_refused((int)(get_u32(frame->payload) & 0xfff), text);
        break;
    default: /* INIT_BORN: its sender is all that it says */
        break;
    }
}

static void keep_descriptor(struct cmsghdr *part)
{
    int fd;
    for (size_t at = 0; at + CMSG_LEN(sizeof fd) <= part->cmsg_len; at += sizeof fd) {
        memcpy(&fd, CMSG_DATA(part) + at, sizeof fd);
        if (descriptor >= 0)
            close(descriptor);
        descriptor = fd;
    }
}

/* The kernel's word for who sent it, in our pid namespace (unix(7), SO_PASSCRED). */
static pid_t sender_of(struct msghdr *message)
{
    pid_t pid = 0;
    for (struct cmsghdr *part = CMSG_FIRSTHDR(message); part != NULL; part = CMSG_NXTHDR(message, part)) {
        struct ucred who;
        if (part->cmsg_level == SOL_SOCKET && part->cmsg_type == SCM_RIGHTS)
            keep_descriptor(part);
        if (part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_CREDENTIALS)
            continue;
        memcpy(&who, CMSG_DATA(part), sizeof who);
        pid = who.pid;
    }
    return pid;
}

static ssize_t receive(pid_t *sender)
{
    union {
        struct cmsghdr header;
        uint8_t space[CMSG_SPACE(sizeof(struct ucred)) + CMSG_SPACE(sizeof(int))];
    } control = {0};
    struct iovec part = {bytes + have, sizeof bytes - have};
    struct msghdr message = {
        .msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
    ssize_t got = recvmsg(shim.report, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    *sender = got > 0 ? sender_of(&message) : 0;
    return got;
}

void report_ready(void)
{
    while (shim.report >= 0) {
        pid_t sender;
        ssize_t got = receive(&sender);
        if (got < 0 && (errno == EAGAIN || errno == EINTR))
            return;
        if (got <= 0) {
            hang_up();
            return;
        }
        /* Only the first sender is the init: it speaks before any of the job's own code runs. */
        if (shim.init == 0 && sender > 1)
            life_init_known(sender);
        have += (size_t)got;
        struct frame frame;
        long size;
        while ((size = frame_parse(bytes, have, FROM_INIT, &frame)) > 0) {
            said(&frame);
            have -= (size_t)size;
            memmove(bytes, bytes + size, have);
        }
        if (size < 0) {
            complain("the job's init sent a malformed frame");
            hang_up();
        }
    }
}

bool report_signal(uint32_t signum)
{
    uint8_t frame[FRAME_HEADER + 4];
    frame_header(frame, FRAME_INIT_SIGNAL, 4);
    put_u32(frame + FRAME_HEADER, signum);
    return shim.report >= 0 &&
           send(shim.report, frame, sizeof frame, MSG_DONTWAIT | MSG_NOSIGNAL) == (ssize_t)sizeof frame;
}
