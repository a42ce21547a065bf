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
#define KILL_MS 5    /* between two looks whether what was killed has gone */
#define HOLD_MS 100  /* between two looks whether somebody holds a terminal again */

enum { REPORT, OUT, ERR, INPUT, EACH };

struct session {
    bool used, started;
    bool closed; /* nobody wants it any more: it is killed, and all that came of it */
    bool left;   /* its client has gone: what it left in the background lives on */
    struct guest_job command;
    struct guest_config *config;
    uint8_t *told;
    size_t told_length;
    unsigned group;
    uint32_t room; /* that its client has for output */
    uint8_t *input;
    size_t input_have;
    bool input_offered, input_ends;
    uint8_t last_type, last[4 + FRAME_TEXT_MAX];
    size_t last_length;
    bool said_last, said_streams_end;
    uint64_t gone_at;
};

static struct session sessions[SESSIONS];

static uint16_t channel_of(const struct session *it)
{
    return (uint16_t)(it - sessions + 1);
}

static void say(const struct session *it, uint8_t type, const uint8_t *payload, size_t length)
{
    if (!it->closed && !it->left)
        link_put_on(channel_of(it), type, payload, length);
}

static void say_last(struct session *it)
{
    if (it->last_type != 0 && !it->said_last)
        say(it, it->last_type, it->last, it->last_length);
    it->said_last = true;
}

static void forget(struct session *it)
{
    if (it->command.report >= 0)
        close(it->command.report);
    guest_streams_close(&it->command);
    free(it->told);
    free(it->config);
    free(it->input);
    guest_group_drop(it->group); /* busy: what it left in the background lives on */
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

static const char *begin(struct session *it, pid_t init)
{
    const char *problem;
    it->config = calloc(1, sizeof *it->config);
    it->input = malloc(INPUT_ROOM);
    errno = ENOMEM;
    if (it->config == NULL || it->input == NULL)
        return "cannot keep a command";
    errno = EPROTO;
    if (it->told == NULL)
        return "cannot read a command";
    if ((problem = guest_config_parse(it->told, it->told_length, it->config)) != NULL)
        return problem;
    if ((it->group = guest_group_make()) == 0)
        return "cannot make the command's control group";
    return it->config->flags & GUEST_HELPER ? guest_helper_start(it->config, init, it->group, &it->command)
                                            : guest_command_start(it->config, init, it->group, &it->command);
}

static void start(struct session *it, pid_t init)
{
    uint8_t stamp[8];
    const char *problem = begin(it, init);
    it->started = true;
    if (problem != NULL) {
        fail(it, problem);
        return;
    }
    if (it->config->flags & GUEST_HELPER) { /* there is no init that would say so */
        put_u64(stamp, sys_realtime());
        say(it, FRAME_INIT_STARTED, stamp, sizeof stamp);
    }
}

static void keep_config(struct session *it, const struct frame *frame)
{
    size_t length = it->told_length + frame->length;
    uint8_t *more = length > CONFIG_MOST || it->started ? NULL : realloc(it->told, length + 1);
    errno = E2BIG;
    if (more == NULL) {
        fail(it, "cannot keep a command");
        return;
    }
    it->told = more;
    memcpy(it->told + it->told_length, frame->payload, frame->length);
    it->told_length = length;
}

/* Once there is something to write it to: a terminal comes late. */
static void offer_input(struct session *it)
{
    uint8_t room[4];
    put_u32(room, INPUT_ROOM);
    if (it->command.input >= 0 && !it->input_offered)
        say(it, FRAME_GUEST_ROOM, room, sizeof room);
    it->input_offered |= it->command.input >= 0;
}

static void close_input(struct session *it)
{
    if (it->command.input >= 0)
        close(it->command.input);
    it->command.input = -1;
}

static void feed(struct session *it)
{
    uint8_t room[4];
    ssize_t put = it->input_have > 0 ? write(it->command.input, it->input, it->input_have) : 0;
    if (put < 0 && errno != EAGAIN && errno != EINTR) {
        close_input(it);
        say(it, FRAME_GUEST_INPUT_END, NULL, 0);
        return;
    }
    if (put > 0) {
        it->input_have -= (size_t)put;
        memmove(it->input, it->input + put, it->input_have);
        put_u32(room, (uint32_t)put);
        say(it, FRAME_GUEST_ROOM, room, sizeof room);
    }
    if (it->input_have == 0 && it->input_ends)
        close_input(it);
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

/* What has not come to be by now never will. */
static void kill_all(struct session *it)
{
    it->closed = true;
    if (it->command.init == 0 && it->gone_at == 0)
        it->gone_at = sys_boottime();
    guest_group_kill(it->group);
}

void sessions_hear(const struct frame *frame, pid_t init)
{
    if (frame->channel == 0 || frame->channel > SESSIONS)
        return;
    struct session *it = &sessions[frame->channel - 1];
    if (!it->used && frame->type == FRAME_GUEST_CONFIG) {
        *it = (struct session){.used = true, .command = GUEST_NO_JOB};
    } else if (!it->used) {
        return; /* it has ended, and END is on the way */
    }
    switch (frame->type) {
    case FRAME_GUEST_CONFIG:
        keep_config(it, frame);
        break;
    case FRAME_GUEST_GO:
        if (!it->started)
            start(it, init);
        break;
    case FRAME_GUEST_STDIN:
        keep_input(it, frame);
        break;
    case FRAME_GUEST_ROOM:
        it->room += get_u32(frame->payload);
        break;
    case FRAME_GUEST_RESIZE:
        guest_resize(&it->command, frame->payload);
        break;
    case FRAME_INIT_SIGNAL:
        pass_signal(it, frame);
        break;
    case FRAME_INIT_LEAVE:
        it->left = it->said_last;
        break;
    case FRAME_GUEST_CLOSE:
        if (!it->left)
            kill_all(it);
        break;
    default:
        break;
    }
}

static void heard(void *whom, const struct frame *frame)
{
    struct session *it = whom;
    if (frame->type == FRAME_INIT_STARTED)
        say(it, frame->type, frame->payload, frame->length);
    else if (frame->type == FRAME_INIT_EXITED || frame->type == FRAME_INIT_FAILED)
        keep_last(it, frame->type, frame->payload, frame->length);
}

static void hear_init(struct session *it)
{
    /* One that never was anybody's child ends with its report. */
    if (guest_hear(&it->command, heard, it) == HUNG_UP && it->command.init == 0)
        it->gone_at = sys_boottime();
}

void sessions_reaped(pid_t pid, int status)
{
    uint8_t raw[4];
    for (int i = 0; i < SESSIONS; i++) {
        struct session *it = &sessions[i];
        if (!it->used || it->command.init != pid)
            continue;
        it->gone_at = sys_boottime();
        while (it->command.report >= 0 && guest_hear(&it->command, heard, it) == HEARD)
            ;
        put_u32(raw, (uint32_t)status);
        keep_last(it, FRAME_INIT_EXITED, raw, sizeof raw);
    }
}

static bool drained(const struct session *it)
{
    return guest_streams_over(&it->command) ||
           (it->room > FRAME_COST && sys_boottime() - it->gone_at >= DRAIN_MS * 1000000ull);
}

static int patience_of(const struct session *it)
{
    if (it->closed)
        return KILL_MS;
    if (it->gone_at != 0 && !it->said_last)
        return DRAIN_MS / 4;
    return it->command.hung_up ? HOLD_MS : -1;
}

int sessions_patience(void)
{
    int least = -1;
    for (int i = 0; i < SESSIONS; i++) {
        int wanted = sessions[i].used ? patience_of(&sessions[i]) : -1;
        if (wanted >= 0 && (least < 0 || wanted < least))
            least = wanted;
    }
    return least;
}

void sessions_wait(struct pollfd *out)
{
    bool link = link_has_room();
    for (int i = 0; i < SESSIONS; i++) {
        const struct session *it = &sessions[i];
        struct pollfd *at = out + EACH * i;
        bool takes = it->used && link && (it->closed || it->room > FRAME_COST);
        at[REPORT] = (struct pollfd){.fd = it->used ? it->command.report : -1, .events = POLLIN};
        at[OUT] = (struct pollfd){.fd = takes && !it->command.hung_up ? it->command.streams[0] : -1, .events = POLLIN};
        at[ERR] = (struct pollfd){.fd = takes ? it->command.streams[1] : -1, .events = POLLIN};
        at[INPUT] = (struct pollfd){.fd = it->used && it->input_have > 0 ? it->command.input : -1, .events = POLLOUT};
    }
}

static void carry(struct session *it, int index)
{
    uint8_t nowhere[4096];
    int fd = it->command.streams[index];
    uint8_t type = index == 0 ? FRAME_GUEST_STDOUT : FRAME_GUEST_STDERR;
    if (fd < 0 || (!it->closed && (it->room <= FRAME_COST || !link_has_room())))
        return;
    ssize_t got = it->closed ? read(fd, nowhere, sizeof nowhere)
                             : link_carry_on(channel_of(it), type, fd, it->room - FRAME_COST);
    if (got > 0 && !it->closed)
        it->room -= (uint32_t)got + FRAME_COST;
    guest_stream_over(&it->command, index, got);
}

/* A client that reads on learns of it though what the command left in the background lives. */
static void say_streams_end(struct session *it)
{
    if (!it->said_streams_end)
        say(it, FRAME_GUEST_STREAMS_END, NULL, 0);
    it->said_streams_end = true;
}

static void settle(struct session *it)
{
    if (!it->used || it->gone_at == 0)
        return;
    if (it->closed) {
        guest_group_kill(it->group); /* once more: what was being born may have been missed */
        if (guest_group_drop(it->group))
            forget(it);
        return;
    }
    if (!drained(it))
        return;
    if (guest_streams_over(&it->command)) {
        guest_streams_close(&it->command);
        say_streams_end(it);
    }
    say_last(it);
    if (it->left || (guest_streams_over(&it->command) && guest_group_drop(it->group)))
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
        offer_input(it);
        for (int index = 0; index < 2; index++)
            if ((at[OUT + index].fd >= 0 && at[OUT + index].revents != 0) || (index == 0 && it->command.hung_up))
                carry(it, index);
        if (at[INPUT].fd >= 0 && at[INPUT].revents != 0 && it->command.input >= 0)
            feed(it);
        settle(it);
    }
}
