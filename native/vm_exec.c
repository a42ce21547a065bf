/* `dms-vm-exec [-t COLUMNSxROWS]`: a further command in a guest, and towards its shim the init of a session. Descriptor 3
 * is the report socket, 4 the command's configuration, 5 the execution's folder. `dms-vm-exec -f CONFIG FOLDER`: a helper
 * for files, of which nobody is told but by how it ends. docs/protocol.md, section 10. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "frame.h"
#include "sys.h"
#include "vm_terminal.h"

enum { REPORT = 3, CONFIG = 4, FOLDER = 5, HUNG_UP = 137 }; /* as dms-init has it */

#define TOLD_MOST 16384u /* of a helper's words: who reads them does so at its end, so they must fit a pipe */
#define WHOLE (FRAME_HEADER + FRAME_DATA_MAX)

static int report = REPORT; /* -1: nobody is told, or asks, any more */
static int guest = -1;
static uint8_t in[WHOLE];
static size_t have, head;  /* `head`: of the frame whose data is passed on now */
static size_t pending;     /* of its data */
static int pending_to;
static uint64_t told; /* by a helper in the guest */
static uint32_t input_room;
static bool has_input = true, has_terminal, is_helper;
static bool told_exit; /* how the command ended */
static bool left;      /* its client wants what it left in the background to live */
static bool deaf;      /* the guest hears us no more; what it had said before is still to be read */
static int code = HUNG_UP;

static void tell(uint8_t type, const uint8_t *payload, size_t length)
{
    uint8_t bytes[FRAME_HEADER + 4 + FRAME_TEXT_MAX];
    frame_header(bytes, type, (uint32_t)length);
    if (length > 0)
        memcpy(bytes + FRAME_HEADER, payload, length);
    ssize_t ignored = report < 0 ? 0 : send(report, bytes, FRAME_HEADER + length, MSG_NOSIGNAL);
    (void)ignored; /* a hang-up shows in poll */
}

/* Why it cannot be begun: to who asked for a command by the report, for a helper as one of its records (section 8). */
static void tell_failure(const uint8_t *payload, size_t length)
{
    if (is_helper)
        dprintf(2, "error%c%u%c%.*s%c", 0, get_u32(payload), 0, (int)(length - 4), (const char *)payload + 4, 0);
    else
        tell(FRAME_INIT_FAILED, payload, length);
}

static _Noreturn void fail(int error, const char *what)
{
    uint8_t payload[4 + FRAME_TEXT_MAX];
    put_u32(payload, (uint32_t)error);
    memcpy(payload + 4, what, strlen(what));
    tell_failure(payload, 4 + strlen(what));
    _exit(HUNG_UP);
}

/* Who is asked for a command waits for us no longer than its peer lives: a full socket is waited for. */
static void ask(uint8_t type, const uint8_t *payload, size_t length)
{
    uint8_t bytes[WHOLE];
    size_t at = 0, whole = frame_header(bytes, type, (uint32_t)length) + length;
    if (length > 0)
        memcpy(bytes + FRAME_HEADER, payload, length);
    while (at < whole && !deaf) {
        ssize_t put = send(guest, bytes + at, whole - at, MSG_NOSIGNAL);
        if (put < 0 && errno == EINTR)
            continue;
        deaf = put <= 0;
        at += deaf ? 0 : (size_t)put;
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
        ssize_t got = recv(report, bytes + got_all, sizeof bytes - got_all, 0);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            _exit(HUNG_UP);
        got_all += (size_t)got;
    }
    if (frame_parse(bytes, got_all, TO_INIT, &frame) != FRAME_HEADER || frame.type != FRAME_INIT_GO)
        _exit(HUNG_UP);
}

static void call_guest(int configuration, int folder)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    uint8_t part[FRAME_DATA_MAX];
    ssize_t got;
    snprintf(address.sun_path, sizeof address.sun_path, "/proc/self/fd/%d/exec", folder);
    guest = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (guest < 0 || connect(guest, (struct sockaddr *)&address, sizeof address) != 0)
        fail(is_helper ? ESRCH : errno, "cannot reach the guest");
    while ((got = read(configuration, part, sizeof part)) > 0)
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

/* What it left in the background may hold nothing of ours: who reads the streams finds their end. */
static void end_streams(void)
{
    sys_hush(0, is_helper ? 1 : 2); /* a helper may have to say why it failed */
    has_input = false;
}

static int code_of(uint32_t status)
{
    return WIFSIGNALED((int)status) ? 128 + WTERMSIG((int)status) : WEXITSTATUS((int)status);
}

static void hear_guest(const struct frame *frame)
{
    uint8_t stamp[8];
    switch (frame->type) {
    case FRAME_GUEST_STDOUT:
    case FRAME_GUEST_STDERR:
        told += is_helper && frame->type == FRAME_GUEST_STDERR ? frame->length : 0;
        pending = told > TOLD_MOST ? 0 : frame->length;
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
        code = is_helper ? code_of(get_u32(frame->payload)) : 0;
        break;
    case FRAME_INIT_FAILED:
        tell_failure(frame->payload, frame->length);
        break;
    case FRAME_GUEST_STREAMS_END:
        end_streams();
        break;
    case FRAME_GUEST_INPUT_END:
        has_input = false;
        sys_hush(0, 0);
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

/* Who goes without a word wants nothing of it any more: we end once the guest has killed it. */
static void hung_up(void)
{
    close(report);
    report = -1;
    end_streams();
    pending = 0;
    if (!left)
        ask(FRAME_GUEST_CLOSE, NULL, 0);
    work_through();
}

static void hear_shim(void)
{
    static uint8_t bytes[4 * (FRAME_HEADER + 4)];
    static size_t filled;
    struct frame frame;
    long size;
    ssize_t got = recv(report, bytes + filled, sizeof bytes - filled, MSG_DONTWAIT);
    if (got < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (got <= 0) {
        hung_up();
        return;
    }
    filled += (size_t)got;
    while ((size = frame_parse(bytes, filled, TO_INIT, &frame)) > 0) {
        left |= frame.type == FRAME_INIT_LEAVE;
        if (frame.type == FRAME_INIT_SIGNAL || frame.type == FRAME_INIT_LEAVE)
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

static void pass_size(int signals)
{
    struct signalfd_siginfo info;
    uint8_t size[8];
    while (read(signals, &info, sizeof info) == sizeof info)
        ;
    if (vm_terminal_size(size) == 0)
        ask(FRAME_GUEST_RESIZE, size, sizeof size);
}

static _Noreturn void loop(int signals)
{
    enum { SHIM, GUEST, OUT, INPUT, SIZE, COUNT };
    for (;;) {
        struct pollfd waited[COUNT] = {
            [SHIM] = {.fd = report, .events = POLLIN},
            [GUEST] = {.fd = pending > 0 ? -1 : guest, .events = POLLIN},
            [OUT] = {.fd = pending > 0 ? pending_to : -1, .events = POLLOUT},
            [INPUT] = {.fd = has_input && input_room > 0 ? 0 : -1, .events = POLLIN},
            [SIZE] = {.fd = has_terminal ? signals : -1, .events = POLLIN},
        };
        if (poll(waited, COUNT, -1) < 0)
            continue;
        if (waited[SHIM].revents != 0)
            hear_shim();
        if (waited[OUT].revents != 0)
            work_through();
        if (waited[GUEST].revents != 0)
            guest_ready();
        if (waited[INPUT].revents != 0 && has_input)
            give_input();
        if (waited[SIZE].revents != 0)
            pass_size(signals);
    }
}

/* A helper ends with its caller, whose descriptors stay as they are. */
static void begin_helper(const char *configuration, const char *folder)
{
    is_helper = true;
    report = -1;
    if (prctl(PR_SET_PDEATHSIG, SIGKILL) != 0)
        _exit(HUNG_UP);
    call_guest(open(configuration, O_RDONLY | O_CLOEXEC), open(folder, O_PATH | O_DIRECTORY | O_CLOEXEC));
}

static void begin_session(const char *terminal)
{
    fcntl(1, F_SETFL, O_WRONLY | O_NONBLOCK);
    fcntl(2, F_SETFL, O_WRONLY | O_NONBLOCK);
    tell(FRAME_INIT_BORN, NULL, 0);
    await_go();
    has_terminal = terminal != NULL;
    if (has_terminal && vm_terminal_take(report, terminal) != 0)
        fail(errno, "cannot make a terminal");
    call_guest(CONFIG, FOLDER);
}

int main(int argc, char **argv)
{
    sigset_t all, size;
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, NULL);
    sigemptyset(&size);
    sigaddset(&size, SIGWINCH);
    int signals = signalfd(-1, &size, SFD_NONBLOCK | SFD_CLOEXEC);
    if (argc == 4 && strcmp(argv[1], "-f") == 0)
        begin_helper(argv[2], argv[3]);
    else
        begin_session(argc == 3 && strcmp(argv[1], "-t") == 0 ? argv[2] : NULL);
    loop(signals);
}
