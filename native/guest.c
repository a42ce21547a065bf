/* `dms-guest`: pid 1 of a guest's initrd. docs/protocol.md, section 10: it loads the modules, says HELLO on the channel,
 * is told of one job, runs it under `dms-init`, carries its streams, and says how it ended. */
#include "guest.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "frame.h"
#include "sys.h"

#define CHANNEL "dms.channel"
#define INPUT_ROOM 65536u
#define CONFIG_MOST (64u << 20)
#define HOLD_MS 100  /* between two looks whether somebody holds the job's terminal again */
#define DRAIN_MS 2000 /* that a stream may stay open once the job's init is gone */

static struct guest_config config;
static struct guest_job job = GUEST_NO_JOB;
static bool running;

static uint8_t *told; /* the configuration, as far as it has come */
static size_t told_length;

static uint8_t input[INPUT_ROOM]; /* of the job's stdin, not yet taken */
static size_t input_have;
static bool input_offered, input_ends;

static uint8_t last_type, last[4 + FRAME_TEXT_MAX]; /* how the job ended, said after all else */
static size_t last_length;
static uint64_t gone_at; /* when its init was seen to be gone */

static _Noreturn void leave(void)
{
    /* The host ends us as soon as it has heard it. */
    struct pollfd waited = {.fd = link_fd(), .events = POLLOUT};
    while (link_is_busy() && poll(&waited, 1, 10000) > 0)
        link_flush();
    sleep(10);
    reboot(RB_AUTOBOOT);
    _exit(1);
}

static _Noreturn void end(void)
{
    uint8_t usage[FRAME_USAGE];
    if (running) {
        guest_outputs_write(&config);
        guest_usage(usage);
        link_put(FRAME_INIT_USAGE, usage, sizeof usage);
    }
    link_put(last_type, last, last_length);
    link_put(FRAME_GUEST_END, NULL, 0);
    leave();
}

static void keep_last(uint8_t type, const uint8_t *payload, size_t length)
{
    if (last_type != 0)
        return;
    last_type = type;
    memcpy(last, payload, length);
    last_length = length;
}

static _Noreturn void fail(const char *what)
{
    uint8_t payload[4 + FRAME_TEXT_MAX];
    size_t length = strlen(what) < FRAME_TEXT_MAX ? strlen(what) : FRAME_TEXT_MAX;
    put_u32(payload, (uint32_t)errno);
    memcpy(payload + 4, what, length);
    keep_last(FRAME_INIT_FAILED, payload, 4 + length);
    end();
}

static _Noreturn void hopeless(const char *what)
{
    fprintf(stderr, "dms-guest: %s: %s\n", what, strerror(errno));
    reboot(RB_AUTOBOOT);
    _exit(1);
}

static void load_modules(void)
{
    char name[256], path[300];
    FILE *order = fopen("/modules/order", "re");
    if (order == NULL)
        hopeless("/modules/order");
    while (fscanf(order, "%255s", name) == 1) {
        snprintf(path, sizeof path, "/modules/%s", name);
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd < 0 || (syscall(SYS_finit_module, fd, "", 0) != 0 && errno != EEXIST))
            hopeless(path);
        close(fd);
        unlink(path); /* it is in the kernel now, and need not be in memory twice */
    }
    fclose(order);
}

static void greet(void)
{
    uint8_t version[4];
    put_u32(version, PROTOCOL_VERSION);
    link_put(FRAME_GUEST_HELLO, version, sizeof version);
    link_flush();
}

static void go(const struct frame *frame)
{
    const char *problem = guest_config_parse(told, told_length, &config);
    errno = EPROTO;
    if (problem != NULL)
        fail(problem);
    if ((problem = guest_begin(frame)) != NULL || (problem = guest_root_layers(&config)) != NULL ||
        (problem = guest_limits_set(&config)) != NULL || (problem = guest_job_start(&config, &job)) != NULL)
        fail(problem);
    running = true;
}

/* Once there is something to write it to: a terminal comes late. */
static void offer_input(void)
{
    uint8_t room[4];
    put_u32(room, INPUT_ROOM);
    if (job.input >= 0 && !input_offered)
        link_put(FRAME_GUEST_ROOM, room, sizeof room);
    input_offered |= job.input >= 0;
}

static void keep_config(const struct frame *frame)
{
    uint8_t *more = told_length + frame->length > CONFIG_MOST ? NULL : realloc(told, told_length + frame->length + 1);
    errno = ENOMEM;
    if (more == NULL)
        fail("cannot keep the configuration");
    told = more;
    memcpy(told + told_length, frame->payload, frame->length);
    told_length += frame->length;
}

static void close_input(void)
{
    if (job.input >= 0)
        close(job.input);
    job.input = -1;
    input_have = 0;
}

static void feed(void)
{
    uint8_t room[4];
    ssize_t put = input_have > 0 ? write(job.input, input, input_have) : 0;
    if (put < 0 && errno != EAGAIN && errno != EINTR) {
        close_input(); /* the job has closed it: what is left is for nobody */
        link_put(FRAME_GUEST_INPUT_END, NULL, 0);
        return;
    }
    if (put > 0) {
        input_have -= (size_t)put;
        memmove(input, input + put, input_have);
        put_u32(room, (uint32_t)put);
        link_put(FRAME_GUEST_ROOM, room, sizeof room);
    }
    if (input_have == 0 && input_ends)
        close_input();
}

static void keep_input(const struct frame *frame)
{
    if (frame->length > sizeof input - input_have)
        return; /* more than there was room for */
    memcpy(input + input_have, frame->payload, frame->length);
    input_have += frame->length;
    input_ends |= frame->length == 0;
    if (job.input >= 0)
        feed();
}

/* The host may be another one now, which knows nothing of what was agreed: how much we take. */
static void tell_input(void)
{
    uint8_t room[4];
    if (!(config.flags & GUEST_INPUT) && config.terminal == NULL)
        return;
    put_u32(room, (uint32_t)(INPUT_ROOM - input_have));
    if (input_ends || (input_offered && job.input < 0))
        link_put(FRAME_GUEST_INPUT_END, NULL, 0);
    else if (input_offered && input_have < INPUT_ROOM)
        link_put(FRAME_GUEST_ROOM, room, sizeof room);
}

static void pass_to_init(const struct frame *frame)
{
    uint8_t bytes[FRAME_HEADER + 4];
    size_t length = frame_header(bytes, frame->type, frame->length);
    memcpy(bytes + length, frame->payload, frame->length);
    if (job.report >= 0)
        send(job.report, bytes, length + frame->length, MSG_DONTWAIT | MSG_NOSIGNAL);
}

static void wake(void)
{
    const char *problem = guest_wake(link_is_call());
    if (problem != NULL)
        hopeless(problem);
    greet();
}

static void hear_host(void)
{
    static uint8_t bytes[FRAME_HEADER + FRAME_DATA_MAX];
    static size_t have;
    struct frame frame;
    long size;
    ssize_t got = read(link_fd(), bytes + have, sizeof bytes - have);
    if (got < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    /* All calls of a guest end with its snapshot: one that was told to wait goes on in a clone. */
    if (got <= 0 && guest_is_template() && link_is_call() && link_call_again()) {
        have = 0;
        wake();
        return;
    }
    /* And one that stood still goes on with its job, once the host has told it. */
    if (got <= 0 && guest_is_frozen() && link_is_call() && link_call_again()) {
        have = 0;
        greet();
        return;
    }
    if (got <= 0)
        hopeless("the host has gone");
    have += (size_t)got;
    while ((size = frame_parse(bytes, have, TO_GUEST, &frame)) > 0) {
        if (frame.channel != 0 && running)
            sessions_hear(&frame, job.init);
        else if (frame.type == FRAME_GUEST_CONFIG && !running)
            keep_config(&frame);
        else if (frame.type == FRAME_GUEST_GO && !running)
            go(&frame);
        else if (frame.type == FRAME_GUEST_WAKE && !running)
            wake();
        else if (frame.type == FRAME_GUEST_FREEZE && running)
            guest_freeze();
        else if (frame.type == FRAME_GUEST_GO && guest_is_frozen()) {
            guest_thaw(&frame);
            tell_input();
        }
        else if (frame.type == FRAME_GUEST_STDIN)
            keep_input(&frame);
        else if (frame.type == FRAME_GUEST_RESIZE)
            guest_resize(&job, frame.payload);
        else if (frame.type == FRAME_INIT_SIGNAL || frame.type == FRAME_INIT_HALT)
            pass_to_init(&frame);
        have -= (size_t)size;
        memmove(bytes, bytes + size, have);
    }
    if (size < 0)
        hopeless("the host broke the protocol");
}

static void heard(void *whom, const struct frame *frame)
{
    (void)whom;
    if (frame->type == FRAME_INIT_STARTED)
        link_put(frame->type, frame->payload, frame->length);
    else if (frame->type == FRAME_INIT_EXITED || frame->type == FRAME_INIT_FAILED || frame->type == FRAME_INIT_SCRIPT)
        keep_last(frame->type, frame->payload, frame->length);
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
        sessions_reaped(pid, status);
        if (pid != job.init)
            continue;
        gone_at = sys_boottime();
        while (job.report >= 0 && guest_hear(&job, heard, NULL) == HEARD) /* its last word is all there now */
            ;
        /* One that was killed, by the kernel for want of memory maybe, takes the job along. */
        put_u32(raw, (uint32_t)status);
        keep_last(FRAME_INIT_EXITED, raw, sizeof raw);
    }
}

static void carry(int index)
{
    ssize_t got = link_carry(index == 0 ? FRAME_GUEST_STDOUT : FRAME_GUEST_STDERR, job.streams[index]);
    guest_stream_over(&job, index, got);
}

static int patience(void)
{
    if (guest_is_frozen())
        return -1;
    if (gone_at == 0) {
        int others = sessions_patience();
        return job.hung_up && (others < 0 || others > HOLD_MS) ? HOLD_MS : others;
    }
    if (link_is_busy()) /* what the host has not taken yet is no reason to hurry */
        return -1;
    uint64_t past = (sys_boottime() - gone_at) / 1000000u;
    return past < DRAIN_MS ? (int)(DRAIN_MS - past) : 0;
}

static _Noreturn void loop(int signals)
{
    enum { SIGNALS, HOST, INIT, OUT, ERR, INPUT, REST };
    for (;;) {
        bool still = guest_is_frozen(), room = link_has_room() && !still;
        struct pollfd waited[REST + SESSION_POLLS] = {
            [SIGNALS] = {.fd = still ? -1 : signals, .events = POLLIN},
            [HOST] = {.fd = link_fd(), .events = (short)(POLLIN | (link_is_busy() ? POLLOUT : 0))},
            [INIT] = {.fd = still ? -1 : job.report, .events = POLLIN},
            [OUT] = {.fd = room && !job.hung_up ? job.streams[0] : -1, .events = POLLIN},
            [ERR] = {.fd = room ? job.streams[1] : -1, .events = POLLIN},
            [INPUT] = {.fd = input_have > 0 && !still ? job.input : -1, .events = POLLOUT},
        };
        sessions_wait(waited + REST);
        int ready = poll(waited, still ? INIT : REST + SESSION_POLLS, patience());
        if (ready == 0 && gone_at != 0)
            end();
        if (ready < 0)
            continue;
        if (waited[HOST].revents & (POLLIN | POLLERR))
            hear_host();
        if (guest_is_frozen()) {
            link_flush();
            continue;
        }
        if (waited[INIT].revents != 0 && job.report >= 0)
            guest_hear(&job, heard, NULL);
        offer_input();
        for (int i = 0; i < 2; i++)
            if ((waited[OUT + i].revents != 0 || (i == 0 && job.hung_up)) && job.streams[i] >= 0 && link_has_room())
                carry(i);
        if (waited[INPUT].revents != 0 && job.input >= 0)
            feed();
        if (waited[SIGNALS].revents != 0)
            reap(signals);
        sessions_serve(waited + REST);
        link_flush();
        if (gone_at != 0 && guest_streams_over(&job))
            end();
    }
}

int main(void)
{
    sigset_t all;
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, NULL);
    mount("dev", "/dev", "devtmpfs", 0, NULL); /* some kernels have done so */
    if (mount("proc", "/proc", "proc", 0, NULL) != 0 || mount("sysfs", "/sys", "sysfs", 0, NULL) != 0)
        hopeless("proc and sysfs");
    int signals = signalfd(-1, &all, SFD_NONBLOCK | SFD_CLOEXEC);
    sys_write_file("/proc/self/oom_score_adj", "-1000", 5);
    load_modules();
    link_open(CHANNEL);
    if (link_fd() < 0 || signals < 0)
        hopeless("the channel to the host");
    greet();
    loop(signals);
}
