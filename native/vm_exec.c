/* `dms-vm-exec`: a further command in a guest, and towards its shim the init of a session. Descriptor 3 is the report
 * socket, 4 the command's configuration, 5 the execution's folder. docs/protocol.md, section 10. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "frame.h"
#include "sys.h"

enum { REPORT = 3, CONFIG = 4, FOLDER = 5, HUNG_UP = 137 }; /* as dms-init has it */

#define WHOLE (FRAME_HEADER + FRAME_DATA_MAX)

static int guest = -1;
static uint8_t in[WHOLE];
static size_t have, head;  /* `head`: of the frame whose data is passed on now */
static size_t pending;     /* of its data */
static int pending_to;
static uint32_t input_room;
static bool has_input = true, told_exit;
static int code = HUNG_UP;

static void tell(uint8_t type, const uint8_t *payload, size_t length)
{
    uint8_t bytes[FRAME_HEADER + 4 + FRAME_TEXT_MAX];
    frame_header(bytes, type, (uint32_t)length);
    if (length > 0)
        memcpy(bytes + FRAME_HEADER, payload, length);
    if (send(REPORT, bytes, FRAME_HEADER + length, MSG_NOSIGNAL) < 0 && !told_exit)
        _exit(HUNG_UP); /* nobody asks for it any more */
}

static _Noreturn void fail(int error, const char *what)
{
    uint8_t payload[4 + FRAME_TEXT_MAX];
    put_u32(payload, (uint32_t)error);
    memcpy(payload + 4, what, strlen(what));
    tell(FRAME_INIT_FAILED, payload, 4 + strlen(what));
    _exit(HUNG_UP);
}

/* Who is asked for a command waits for us no longer than its peer lives: a full socket is waited for. */
static void ask(uint8_t type, const uint8_t *payload, size_t length)
{
    uint8_t bytes[WHOLE];
    size_t at = 0, whole = frame_header(bytes, type, (uint32_t)length) + length;
    if (length > 0)
        memcpy(bytes + FRAME_HEADER, payload, length);
    while (at < whole) {
        ssize_t put = send(guest, bytes + at, whole - at, MSG_NOSIGNAL);
        if (put < 0 && errno == EINTR)
            continue;
        if (put <= 0)
            _exit(HUNG_UP);
        at += (size_t)put;
    }
}

static void give_room(uint32_t bytes)
{
    uint8_t room[4];
    put_u32(room, bytes);
    ask(FRAME_GUEST_ROOM, room, sizeof room);
}

/* The shim has to know us before anything runs. */
static void await_go(void)
{
    uint8_t bytes[FRAME_HEADER];
    struct frame frame;
    size_t got_all = 0;
    while (got_all < sizeof bytes) {
        ssize_t got = recv(REPORT, bytes + got_all, sizeof bytes - got_all, 0);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            _exit(HUNG_UP);
        got_all += (size_t)got;
    }
    if (frame_parse(bytes, got_all, TO_INIT, &frame) != FRAME_HEADER || frame.type != FRAME_INIT_GO)
        _exit(HUNG_UP);
}

static void call_guest(void)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    uint8_t part[FRAME_DATA_MAX];
    ssize_t got;
    snprintf(address.sun_path, sizeof address.sun_path, "/proc/self/fd/%d/exec", FOLDER);
    guest = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (guest < 0 || connect(guest, (struct sockaddr *)&address, sizeof address) != 0)
        fail(errno, "cannot reach the guest");
    while ((got = read(CONFIG, part, sizeof part)) > 0)
        ask(FRAME_GUEST_CONFIG, part, (size_t)got);
    ask(FRAME_GUEST_GO, NULL, 0);
    give_room(FRAME_WINDOW);
}

static bool pass_on(void)
{
    while (pending > 0) {
        ssize_t put = write(pending_to, in + head - pending, pending);
        if (put < 0 && errno == EAGAIN)
            return false;
        if (put < 0 && errno != EINTR)
            pending = 0; /* nobody reads it any more */
        else if (put > 0)
            pending -= (size_t)put;
    }
    return true;
}

static void hear_guest(const struct frame *frame)
{
    uint8_t stamp[8];
    switch (frame->type) {
    case FRAME_GUEST_STDOUT:
    case FRAME_GUEST_STDERR:
        pending = frame->length;
        pending_to = frame->type == FRAME_GUEST_STDOUT ? 1 : 2;
        break;
    case FRAME_GUEST_ROOM:
        if (get_u32(frame->payload) <= UINT32_MAX - input_room)
            input_room += get_u32(frame->payload);
        break;
    case FRAME_INIT_STARTED:
        put_u64(stamp, sys_realtime());
        tell(FRAME_INIT_STARTED, stamp, sizeof stamp);
        break;
    case FRAME_INIT_EXITED:
        tell(frame->type, frame->payload, frame->length);
        told_exit = true;
        code = 0;
        break;
    case FRAME_GUEST_END:
        _exit(code);
    default:
        tell(frame->type, frame->payload, frame->length);
        break;
    }
}

static void work_through(void)
{
    for (;;) {
        struct frame frame;
        if (pending > 0 && !pass_on())
            return;
        if (head > 0) {
            uint32_t data = (uint32_t)(head - FRAME_HEADER);
            bool counted = in[4] == FRAME_GUEST_STDOUT || in[4] == FRAME_GUEST_STDERR;
            have -= head;
            memmove(in, in + head, have);
            head = 0;
            if (counted)
                give_room(data + FRAME_COST);
        }
        long size = frame_parse(in, have, FROM_GUEST, &frame);
        if (size < 0)
            _exit(HUNG_UP);
        if (size == 0)
            return;
        head = (size_t)size;
        hear_guest(&frame);
    }
}

static void guest_ready(void)
{
    ssize_t got = recv(guest, in + have, sizeof in - have, MSG_DONTWAIT);
    if (got < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (got <= 0)
        _exit(code);
    have += (size_t)got;
    work_through();
}

static void hear_shim(void)
{
    static uint8_t bytes[4 * (FRAME_HEADER + 4)];
    static size_t filled;
    struct frame frame;
    long size;
    ssize_t got = recv(REPORT, bytes + filled, sizeof bytes - filled, MSG_DONTWAIT);
    if (got < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (got <= 0)
        _exit(code);
    filled += (size_t)got;
    while ((size = frame_parse(bytes, filled, TO_INIT, &frame)) > 0) {
        if (frame.type == FRAME_INIT_SIGNAL)
            ask(frame.type, frame.payload, frame.length);
        filled -= (size_t)size;
        memmove(bytes, bytes + size, filled);
    }
    if (size < 0)
        _exit(HUNG_UP);
}

static void give_input(void)
{
    uint8_t part[FRAME_DATA_MAX];
    ssize_t got = read(0, part, input_room < sizeof part ? input_room : sizeof part);
    if (got < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    ask(FRAME_GUEST_STDIN, part, got > 0 ? (size_t)got : 0);
    if (got > 0)
        input_room -= (uint32_t)got;
    has_input = got > 0;
}

int main(void)
{
    enum { SHIM, GUEST, OUT, INPUT, COUNT };
    sigset_t all;
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, NULL);
    fcntl(1, F_SETFL, O_WRONLY | O_NONBLOCK);
    fcntl(2, F_SETFL, O_WRONLY | O_NONBLOCK);
    tell(FRAME_INIT_BORN, NULL, 0);
    await_go();
    call_guest();
    for (;;) {
        struct pollfd waited[COUNT] = {
            [SHIM] = {.fd = REPORT, .events = POLLIN},
            [GUEST] = {.fd = pending > 0 ? -1 : guest, .events = POLLIN},
            [OUT] = {.fd = pending > 0 ? pending_to : -1, .events = POLLOUT},
            [INPUT] = {.fd = has_input && input_room > 0 ? 0 : -1, .events = POLLIN},
        };
        if (poll(waited, COUNT, -1) < 0)
            continue;
        if (waited[SHIM].revents != 0)
            hear_shim();
        if (waited[OUT].revents != 0)
            work_through();
        if (waited[GUEST].revents != 0)
            guest_ready();
        if (waited[INPUT].revents != 0)
            give_input();
    }
}
