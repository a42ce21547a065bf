/* `dms-pod`: executed in a pod beside its job, for whoever asks by the cluster's API. On its descriptors 0 and 1 are
 * frames, as a guest's agent has them for one channel: a further command, a helper for files, or the way to the job's own
 * input. Nothing of what it is told is ever an argument of its own, which a cluster writes down. docs/protocol.md, section
 * 11. */
#include "pod.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "frame.h"
#include "sys.h"

#define CONFIG_MOST (1u << 20)
#define INPUT_ROOM 65536u
#define DRAIN_MS 300 /* that output may still come once the command has ended, after the last of it */
#define HOLD_MS 100  /* between two looks whether somebody holds a terminal again */
#define LINGER_MS 10000 /* for who asked to have read all, and to close its side */

static struct guest_job command = GUEST_NO_JOB;
static struct guest_config config;
static uint8_t *told;
static size_t told_length;
static bool started, attached;
static int control = -1;     /* of what it is attached to */
static bool gone;            /* whoever asked */
static bool closed;          /* nobody wants it any more: it is killed, and all that came of it */
static bool reaped, ended;   /* the init, or the helper; and how it ended has been said */
static bool streams_ended;
static uint32_t room; /* for output, there */
static uint64_t quiet_since;
static uint8_t input[INPUT_ROOM];
static size_t input_have;
static bool input_offered, input_ends;

static void say(uint8_t type, const uint8_t *payload, size_t length)
{
    if (!gone)
        link_put(type, payload, length);
}

static void say_room(uint32_t bytes)
{
    uint8_t raw[4];
    put_u32(raw, bytes);
    say(FRAME_GUEST_ROOM, raw, sizeof raw);
}

/* A node lets go of the streams of what has ended, whether all has been read of them or not. */
static void await_reader(void)
{
    static uint8_t nowhere[4096];
    uint64_t until = sys_boottime() + LINGER_MS * 1000000ull, now;
    struct pollfd host = {.fd = 0, .events = POLLIN};
    while (!gone && (now = sys_boottime()) < until) {
        if (poll(&host, 1, (int)((until - now) / 1000000u) + 1) <= 0)
            continue;
        ssize_t got = read(0, nowhere, sizeof nowhere);
        if (got == 0 || (got < 0 && errno != EAGAIN && errno != EINTR))
            return;
    }
}

static _Noreturn void leave(void)
{
    struct pollfd way = {.fd = 1, .events = POLLOUT};
    say(FRAME_GUEST_END, NULL, 0);
    for (link_flush(); !gone && link_is_busy(); link_flush())
        if (poll(&way, 1, -1) > 0 && (way.revents & (POLLERR | POLLHUP)))
            _exit(0);
    await_reader();
    _exit(0);
}

static void say_end(uint8_t type, const uint8_t *payload, size_t length)
{
    if (!ended)
        say(type, payload, length);
    ended = true;
    quiet_since = sys_boottime();
}

static _Noreturn void fail(const char *what)
{
    uint8_t payload[4 + FRAME_TEXT_MAX];
    size_t length = strlen(what);
    put_u32(payload, (uint32_t)errno);
    memcpy(payload + 4, what, length);
    say_end(FRAME_INIT_FAILED, payload, 4 + length);
    leave();
}

static void say_started(void)
{
    uint8_t stamp[8];
    put_u64(stamp, sys_realtime());
    say(FRAME_INIT_STARTED, stamp, sizeof stamp);
}

static void close_input(void)
{
    if (command.input >= 0)
        close(command.input);
    command.input = -1;
    input_have = 0;
}

/* Its init kills all that came of it, and a helper has nothing. What was typed to the job still counts. */
static void close_all(void)
{
    closed = true;
    if (command.report >= 0)
        close(command.report);
    else if (command.init > 0 && !reaped)
        kill(command.init, SIGKILL);
    command.report = -1;
    if (!attached)
        close_input();
    if (!started)
        leave();
}

static void ask_control(uint8_t type, const uint8_t *payload, size_t length)
{
    uint8_t bytes[FRAME_HEADER + 8];
    size_t size = frame_header(bytes, type, (uint32_t)length);
    if (length > 0)
        memcpy(bytes + size, payload, length);
    /* Frames are tiny: a full FIFO belongs to a job that is stuck, a broken one to one that is gone. */
    ssize_t ignored = control < 0 ? 0 : write(control, bytes, size + length);
    (void)ignored;
}

/* Nobody reads it any more. */
static void lose_input(void)
{
    close_input();
    say(FRAME_GUEST_INPUT_END, NULL, 0);
}

static void feed(void)
{
    ssize_t put = input_have > 0 ? write(command.input, input, input_have) : 0;
    if (put < 0 && errno != EAGAIN && errno != EINTR) {
        lose_input();
        return;
    }
    if (put > 0) {
        input_have -= (size_t)put;
        memmove(input, input + put, input_have);
        say_room((uint32_t)put);
    }
    if (input_have == 0 && input_ends) {
        close_input();
        if (attached)
            ask_control(FRAME_CLOSE_INPUT, NULL, 0);
    }
}

static void keep_input(const struct frame *frame)
{
    if (command.input < 0 || input_ends || frame->length > INPUT_ROOM - input_have)
        return;
    memcpy(input + input_have, frame->payload, frame->length);
    input_have += frame->length;
    input_ends = frame->length == 0;
    feed();
}

/* Once there is something to write it to: a terminal comes late. */
static void offer_input(void)
{
    if (command.input < 0 || input_offered)
        return;
    input_offered = true;
    say_room(INPUT_ROOM);
}

static void keep_config(const struct frame *frame)
{
    uint8_t *more = started || told_length + frame->length > CONFIG_MOST ? NULL
                                                                         : realloc(told, told_length + frame->length + 1);
    errno = E2BIG;
    if (more == NULL)
        fail("cannot keep a command");
    told = more;
    memcpy(told + told_length, frame->payload, frame->length);
    told_length += frame->length;
}

static void start(void)
{
    errno = EPROTO;
    const char *problem = told == NULL ? "cannot read a command" : guest_config_parse(told, told_length, &config);
    if (problem != NULL)
        fail(problem);
    started = true;
    attached = (config.flags & GUEST_ATTACH) != 0;
    if (attached)
        problem = pod_attach(&config, &command, &control);
    else
        problem = config.flags & GUEST_HELPER ? pod_helper(&config, &command) : pod_command(&config, &command);
    if (problem != NULL)
        fail(problem);
    if (command.report < 0) /* there is no init that would say so */
        say_started();
    if (attached && command.input < 0)
        say(FRAME_GUEST_INPUT_END, NULL, 0);
}

static void tell_init(const struct frame *frame)
{
    uint8_t bytes[FRAME_HEADER + 4];
    size_t length = frame_header(bytes, frame->type, frame->length);
    memcpy(bytes + length, frame->payload, frame->length);
    if (command.report >= 0)
        send(command.report, bytes, length + frame->length, MSG_DONTWAIT | MSG_NOSIGNAL);
}

static void hear(const struct frame *frame)
{
    switch (frame->type) {
    case FRAME_GUEST_CONFIG:
        keep_config(frame);
        break;
    case FRAME_GUEST_GO:
        if (!started)
            start();
        break;
    case FRAME_GUEST_STDIN:
        keep_input(frame);
        break;
    case FRAME_GUEST_ROOM:
        room += get_u32(frame->payload) <= UINT32_MAX - room ? get_u32(frame->payload) : 0;
        break;
    case FRAME_GUEST_RESIZE:
        if (attached)
            ask_control(FRAME_RESIZE, frame->payload, frame->length);
        else
            guest_resize(&command, frame->payload);
        break;
    case FRAME_INIT_SIGNAL:
        tell_init(frame);
        break;
    case FRAME_INIT_LEAVE:
        if (ended)
            tell_init(frame);
        break;
    case FRAME_GUEST_CLOSE:
        close_all();
        break;
    default:
        break;
    }
}

static void host_ready(void)
{
    static uint8_t bytes[2 * (FRAME_HEADER + FRAME_DATA_MAX)];
    static size_t have;
    struct frame frame;
    long size = 0;
    ssize_t got = read(0, bytes + have, sizeof bytes - have);
    if (got < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    have += got > 0 ? (size_t)got : 0;
    while (got > 0 && (size = frame_parse(bytes, have, TO_GUEST, &frame)) > 0) {
        hear(&frame);
        have -= (size_t)size;
        memmove(bytes, bytes + size, have);
    }
    if (got > 0 && size == 0)
        return;
    gone = true; /* in whatever way, or it speaks another language */
    close_all();
}

static void heard(void *whom, const struct frame *frame)
{
    (void)whom;
    if (frame->type == FRAME_INIT_STARTED)
        say(frame->type, frame->payload, frame->length);
    else if (frame->type == FRAME_INIT_EXITED || frame->type == FRAME_INIT_FAILED)
        say_end(frame->type, frame->payload, frame->length);
}

static void reap(int signals)
{
    struct signalfd_siginfo info;
    uint8_t raw[4];
    int status;
    pid_t pid;
    while (read(signals, &info, sizeof info) == sizeof info)
        ;
    while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
        if (pid != command.init)
            continue;
        while (command.report >= 0 && guest_hear(&command, heard, NULL) == HEARD)
            ;
        reaped = true;
        put_u32(raw, (uint32_t)status);
        say_end(FRAME_INIT_EXITED, raw, sizeof raw); /* if nobody has said it */
    }
}

static bool may_carry(void)
{
    return closed || (link_has_room() && room > FRAME_COST);
}

static void carry(int index)
{
    uint8_t nowhere[4096];
    int fd = command.streams[index];
    if (fd < 0 || !may_carry())
        return;
    ssize_t got = closed ? read(fd, nowhere, sizeof nowhere)
                         : link_carry_on(0, index == 0 ? FRAME_GUEST_STDOUT : FRAME_GUEST_STDERR, fd, room - FRAME_COST);
    if (got > 0 && !closed)
        room -= (uint32_t)got + FRAME_COST;
    if (got > 0)
        quiet_since = sys_boottime();
    guest_stream_over(&command, index, got);
}

static bool drained(void)
{
    return guest_streams_over(&command) ||
           (room > FRAME_COST && sys_boottime() - quiet_since >= DRAIN_MS * 1000000ull);
}

/* A child may hold a stream open for as long as it lives: that keeps nobody. */
static void settle(void)
{
    if (attached && closed && (command.input < 0 || input_have == 0))
        leave();
    if (closed && reaped)
        leave();
    if (ended && !streams_ended && drained()) {
        guest_streams_close(&command);
        streams_ended = true;
        say(FRAME_GUEST_STREAMS_END, NULL, 0);
    }
    if (streams_ended && reaped)
        leave();
}

static int patience(void)
{
    if (ended && !streams_ended)
        return DRAIN_MS / 4;
    return command.hung_up ? HOLD_MS : -1;
}

int main(void)
{
    enum { SIGNALS, HOST, REPORT, INPUT, WAY, OUT, COUNT = OUT + 2 };
    sigset_t all, child;
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, NULL);
    sigemptyset(&child);
    sigaddset(&child, SIGCHLD);
    int signals = signalfd(-1, &child, SFD_NONBLOCK | SFD_CLOEXEC);
    int flags = fcntl(1, F_GETFL);
    if (signals < 0 || flags < 0 || fcntl(1, F_SETFL, flags | O_NONBLOCK) != 0)
        return 3;
    prctl(PR_SET_DUMPABLE, 0); /* the job may be of the same user */
    link_use(1);
    for (;;) {
        /* A pipe tells of its end; a terminal would tell for ever that nobody holds it. */
        bool takes = may_carry(), listens = input_have > 0 || !command.terminal;
        struct pollfd waited[COUNT] = {
            [SIGNALS] = {.fd = signals, .events = POLLIN},
            [HOST] = {.fd = gone ? -1 : 0, .events = POLLIN},
            [REPORT] = {.fd = command.report, .events = POLLIN},
            [INPUT] = {.fd = listens ? command.input : -1, .events = input_have > 0 ? POLLOUT : 0},
            [WAY] = {.fd = !gone && link_is_busy() ? 1 : -1, .events = POLLOUT},
            [OUT] = {.fd = takes && !command.hung_up ? command.streams[0] : -1, .events = POLLIN},
            [OUT + 1] = {.fd = takes ? command.streams[1] : -1, .events = POLLIN},
        };
        if (poll(waited, COUNT, patience()) < 0)
            continue;
        if (waited[SIGNALS].revents != 0)
            reap(signals);
        if (waited[REPORT].revents != 0 && command.report >= 0)
            guest_hear(&command, heard, NULL);
        if (waited[HOST].revents != 0)
            host_ready();
        offer_input();
        for (int index = 0; index < 2; index++)
            if (waited[OUT + index].revents != 0 || (index == 0 && command.hung_up))
                carry(index);
        if (waited[INPUT].revents != 0 && command.input >= 0)
            (waited[INPUT].revents & POLLERR) && !command.terminal ? lose_input() : feed();
        settle();
        link_flush();
    }
}
