/* Further commands in the job: each is told, fed and heard on a channel of its own, within what its client can take. */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "frame.h"
#include "guest.h"
#include "sys.h"

#define CONFIG_MOST (1u << 20)
#define INPUT_ROOM 65536u
#define DRAIN_MS 200 /* that output may still come once the command is gone, before that is told */

enum { REPORT, OUT, ERR, INPUT, EACH };

struct session {
    bool used, closed; /* closed: its client has gone */
    struct guest_job command;
    struct guest_config *config;
    uint8_t *told;
    size_t told_length;
    uint32_t room; /* that its client has for output */
    uint8_t *input;
    size_t input_have;
    bool input_ends;
    uint8_t report[FRAME_HEADER + 4 + FRAME_TEXT_MAX];
    size_t report_have;
    uint8_t last_type, last[4 + FRAME_TEXT_MAX];
    size_t last_length;
    bool said_last;
    uint64_t gone_at;
};

static struct session sessions[SESSIONS];

static uint16_t channel_of(const struct session *it)
{
    return (uint16_t)(it - sessions + 1);
}

static void say(const struct session *it, uint8_t type, const uint8_t *payload, size_t length)
{
    if (!it->closed)
        link_put_on(channel_of(it), type, payload, length);
}

static void close_fd(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

static void say_last(struct session *it)
{
    if (it->last_type != 0 && !it->said_last)
        say(it, it->last_type, it->last, it->last_length);
    it->said_last = true;
}

static void forget(struct session *it)
{
    char path[64];
    close_fd(&it->command.report);
    close_fd(&it->command.streams[0]);
    close_fd(&it->command.streams[1]);
    close_fd(&it->command.input);
    free(it->told);
    free(it->config);
    free(it->input);
    snprintf(path, sizeof path, GUEST_CGROUP "/exec-%u", channel_of(it));
    rmdir(path); /* busy: what it left in the background lives on */
    it->used = false;
    link_put_on(channel_of(it), FRAME_GUEST_END, NULL, 0);
}

static void keep_last(struct session *it, uint8_t type, const uint8_t *payload, size_t length)
{
    if (it->last_type != 0)
        return;
    it->last_type = type;
    memcpy(it->last, payload, length);
    it->last_length = length;
}

static void fail(struct session *it, const char *what)
{
    uint8_t payload[4 + FRAME_TEXT_MAX];
    size_t length = strlen(what) < FRAME_TEXT_MAX ? strlen(what) : FRAME_TEXT_MAX;
    put_u32(payload, (uint32_t)errno);
    memcpy(payload + 4, what, length);
    keep_last(it, FRAME_INIT_FAILED, payload, 4 + length);
    say_last(it);
    forget(it);
}

static void start(struct session *it, pid_t init)
{
    uint8_t room[4];
    it->config = calloc(1, sizeof *it->config);
    it->input = malloc(INPUT_ROOM);
    const char *problem = "cannot keep a command";
    errno = ENOMEM;
    if (it->config != NULL && it->input != NULL) {
        errno = EPROTO;
        problem = it->told == NULL ? "cannot read a command" : guest_config_parse(it->told, it->told_length, it->config);
        if (problem == NULL)
            problem = guest_command_start(it->config, init, channel_of(it), &it->command);
    }
    if (problem != NULL) {
        fail(it, problem);
        return;
    }
    put_u32(room, INPUT_ROOM);
    if (it->command.input >= 0)
        say(it, FRAME_GUEST_ROOM, room, sizeof room);
}

static void keep_config(struct session *it, const struct frame *frame)
{
    size_t length = it->told_length + frame->length;
    uint8_t *more = length > CONFIG_MOST ? NULL : realloc(it->told, length + 1);
    errno = E2BIG;
    if (more == NULL) {
        fail(it, "cannot keep a command");
        return;
    }
    it->told = more;
    memcpy(it->told + it->told_length, frame->payload, frame->length);
    it->told_length = length;
}

static void feed(struct session *it)
{
    uint8_t room[4];
    ssize_t put = it->input_have > 0 ? write(it->command.input, it->input, it->input_have) : 0;
    if (put < 0 && errno != EAGAIN && errno != EINTR) {
        close_fd(&it->command.input);
        return;
    }
    if (put > 0) {
        it->input_have -= (size_t)put;
        memmove(it->input, it->input + put, it->input_have);
        put_u32(room, (uint32_t)put);
        say(it, FRAME_GUEST_ROOM, room, sizeof room);
    }
    if (it->input_have == 0 && it->input_ends)
        close_fd(&it->command.input);
}

static void keep_input(struct session *it, const struct frame *frame)
{
    if (it->command.input < 0 || frame->length > INPUT_ROOM - it->input_have)
        return;
    memcpy(it->input + it->input_have, frame->payload, frame->length);
    it->input_have += frame->length;
    it->input_ends |= frame->length == 0;
    feed(it);
}

static void pass_signal(const struct session *it, const struct frame *frame)
{
    uint8_t bytes[FRAME_HEADER + 4];
    size_t length = frame_header(bytes, frame->type, frame->length);
    memcpy(bytes + length, frame->payload, frame->length);
    if (it->command.report >= 0)
        send(it->command.report, bytes, length + frame->length, MSG_DONTWAIT | MSG_NOSIGNAL);
}

/* All of the command at once, unless it has ended and left something in the background. */
static void client_left(struct session *it)
{
    char path[64];
    it->closed = true;
    snprintf(path, sizeof path, GUEST_CGROUP "/exec-%u/cgroup.kill", channel_of(it));
    if (it->command.init == 0 && it->gone_at == 0)
        it->gone_at = sys_boottime(); /* it never came to be */
    if (it->gone_at == 0)
        sys_write_file(path, "1", 1);
    else
        forget(it);
}

void sessions_hear(const struct frame *frame, pid_t init)
{
    if (frame->channel == 0 || frame->channel > SESSIONS)
        return;
    struct session *it = &sessions[frame->channel - 1];
    if (!it->used && frame->type == FRAME_GUEST_CONFIG) {
        *it = (struct session){.used = true, .command = {.report = -1, .streams = {-1, -1}, .input = -1}};
    } else if (!it->used) {
        return; /* it has ended, and END is on the way */
    }
    switch (frame->type) {
    case FRAME_GUEST_CONFIG:
        keep_config(it, frame);
        break;
    case FRAME_GUEST_GO:
        start(it, init);
        break;
    case FRAME_GUEST_STDIN:
        keep_input(it, frame);
        break;
    case FRAME_GUEST_ROOM:
        it->room += get_u32(frame->payload);
        break;
    case FRAME_INIT_SIGNAL:
        pass_signal(it, frame);
        break;
    case FRAME_GUEST_CLOSE:
        client_left(it);
        break;
    default:
        break;
    }
}

static bool hear_init(struct session *it)
{
    struct frame frame;
    long size = 0;
    ssize_t got = recv(it->command.report, it->report + it->report_have, sizeof it->report - it->report_have, MSG_DONTWAIT);
    if (got < 0 && (errno == EAGAIN || errno == EINTR))
        return false;
    it->report_have += got > 0 ? (size_t)got : 0;
    while ((size = frame_parse(it->report, it->report_have, FROM_INIT, &frame)) > 0) {
        if (frame.type == FRAME_INIT_STARTED)
            say(it, frame.type, frame.payload, frame.length);
        else if (frame.type == FRAME_INIT_EXITED || frame.type == FRAME_INIT_FAILED)
            keep_last(it, frame.type, frame.payload, frame.length);
        it->report_have -= (size_t)size;
        memmove(it->report, it->report + size, it->report_have);
    }
    if (got > 0 && size == 0)
        return true;
    close_fd(&it->command.report);
    /* One that never was anybody's child, or whose end is seen below. */
    if (it->command.init == 0)
        it->gone_at = sys_boottime();
    return false;
}

void sessions_reaped(pid_t pid, int status)
{
    uint8_t raw[4];
    for (int i = 0; i < SESSIONS; i++) {
        struct session *it = &sessions[i];
        if (!it->used || it->command.init != pid)
            continue;
        it->gone_at = sys_boottime();
        while (it->command.report >= 0 && hear_init(it))
            ;
        put_u32(raw, (uint32_t)status);
        keep_last(it, FRAME_INIT_EXITED, raw, sizeof raw);
    }
}

static bool drained(const struct session *it)
{
    return (it->command.streams[0] < 0 && it->command.streams[1] < 0) ||
           (it->room > FRAME_COST && sys_boottime() - it->gone_at >= DRAIN_MS * 1000000ull);
}

int sessions_patience(void)
{
    for (int i = 0; i < SESSIONS; i++)
        if (sessions[i].used && sessions[i].gone_at != 0 && !sessions[i].said_last)
            return DRAIN_MS / 4;
    return -1;
}

void sessions_wait(struct pollfd *out)
{
    bool link = link_has_room();
    for (int i = 0; i < SESSIONS; i++) {
        const struct session *it = &sessions[i];
        struct pollfd *at = out + EACH * i;
        bool takes = it->used && link && (it->closed || it->room > FRAME_COST);
        at[REPORT] = (struct pollfd){.fd = it->used ? it->command.report : -1, .events = POLLIN};
        at[OUT] = (struct pollfd){.fd = takes ? it->command.streams[0] : -1, .events = POLLIN};
        at[ERR] = (struct pollfd){.fd = takes ? it->command.streams[1] : -1, .events = POLLIN};
        at[INPUT] = (struct pollfd){.fd = it->used && it->input_have > 0 ? it->command.input : -1, .events = POLLOUT};
    }
}

static void carry(struct session *it, int index)
{
    uint8_t nowhere[4096];
    int *fd = &it->command.streams[index];
    uint8_t type = index == 0 ? FRAME_GUEST_STDOUT : FRAME_GUEST_STDERR;
    if (*fd < 0 || (!it->closed && (it->room <= FRAME_COST || !link_has_room())))
        return;
    ssize_t got = it->closed ? read(*fd, nowhere, sizeof nowhere)
                             : link_carry_on(channel_of(it), type, *fd, it->room - FRAME_COST);
    if (got > 0 && !it->closed)
        it->room -= (uint32_t)got + FRAME_COST;
    if (got > 0 || (got < 0 && (errno == EAGAIN || errno == EINTR)))
        return;
    close_fd(fd);
}

static void settle(struct session *it)
{
    if (!it->used || it->gone_at == 0 || !(it->closed || drained(it)))
        return;
    say_last(it);
    if (it->closed || (it->command.streams[0] < 0 && it->command.streams[1] < 0))
        forget(it);
}

void sessions_serve(const struct pollfd *waited)
{
    for (int i = 0; i < SESSIONS; i++) {
        struct session *it = &sessions[i];
        const struct pollfd *at = waited + EACH * i;
        if (!it->used)
            continue;
        if (at[REPORT].fd >= 0 && at[REPORT].revents != 0 && it->command.report >= 0)
            hear_init(it);
        for (int index = 0; index < 2; index++)
            if (at[OUT + index].fd >= 0 && at[OUT + index].revents != 0)
                carry(it, index);
        if (at[INPUT].fd >= 0 && at[INPUT].revents != 0 && it->command.input >= 0)
            feed(it);
        settle(it);
    }
}
