#include "vm_warm.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "frame.h"
#include "sys.h"
#include "vm_fire.h"

enum {
    PATIENCE_MS = 30000, /* for a restored agent's answer, on a host that has no time for us */
    LIFE_MS = 300000,    /* of a template's boot, and of the taking of its snapshot: its maker gives up long before */
};

enum outcome { GREETED, TOLD, GONE, LATE };

/* Of what the agent says first, which stays where it is. */
static enum outcome look(const struct vmm *vmm)
{
    uint8_t bytes[FRAME_HEADER + 4];
    struct frame frame;
    ssize_t got = recv(vmm->channel, bytes, sizeof bytes, MSG_PEEK | MSG_DONTWAIT);
    if (got < 0 && (errno == EAGAIN || errno == EINTR))
        return LATE;
    if (got <= 0)
        return GONE;
    long size = frame_parse(bytes, (size_t)got, FROM_GUEST, &frame);
    if (size == 0)
        usleep(1000); /* the rest of it is on its way */
    if (size <= 0)
        return size < 0 ? GONE : LATE;
    return frame.type == FRAME_GUEST_HELLO && get_u32(frame.payload) == PROTOCOL_VERSION ? GREETED : GONE;
}

/* `awaits`: else nothing that the agent says counts. `most` in ms. */
static enum outcome wait_for(struct vmm *vmm, bool awaits, int report, int folder, int signals, int most)
{
    enum { SIGNALS, REPORT, CHANNEL, CONSOLE, WORDS, COUNT };
    uint64_t until = sys_boottime() / 1000000u + (uint64_t)most;
    for (;;) {
        uint64_t now = sys_boottime() / 1000000u;
        if (now >= until)
            return LATE;
        struct pollfd waited[COUNT] = {
            [SIGNALS] = {.fd = signals, .events = POLLIN},
            [REPORT] = {.fd = report, .events = POLLIN},
            [CHANNEL] = {.fd = !awaits ? -1 : vmm->channel >= 0 ? vmm->channel : vmm->listening, .events = POLLIN},
            [CONSOLE] = {.fd = vmm->console, .events = POLLIN},
            [WORDS] = {.fd = vmm->words, .events = POLLIN},
        };
        if (poll(waited, COUNT, (int)(until - now)) < 0)
            continue;
        if (waited[CONSOLE].revents != 0)
            vmm_listen(&vmm->console, folder);
        if (waited[WORDS].revents != 0)
            vmm_listen(&vmm->words, folder);
        if (waited[SIGNALS].revents != 0)
            vmm_reap(vmm, signals);
        if (waited[CHANNEL].revents != 0 && vmm->channel < 0) {
            vmm_accept(vmm);
        } else if (waited[CHANNEL].revents != 0) {
            enum outcome heard = look(vmm);
            if (heard != LATE)
                return heard;
        }
        if (vmm->pid == 0)
            return GONE;
        if (waited[REPORT].revents != 0)
            return TOLD;
    }
}

static void close_all(struct vmm *vmm)
{
    int *fds[] = {&vmm->channel, &vmm->listening, &vmm->console, &vmm->words, &vmm->monitor};
    for (size_t i = 0; i < sizeof fds / sizeof *fds; i++) {
        if (*fds[i] >= 0)
            close(*fds[i]);
        *fds[i] = -1;
    }
}

static void note(int folder, enum outcome outcome)
{
    char text[1024];
    const char *why = *vm_fire_problem() != 0 ? vm_fire_problem() : vmm_last_words();
    int length = snprintf(text, sizeof text, "%s%s", outcome == LATE ? "its agent did not answer in time: " : "", why);
    int fd = openat(folder, "cold", O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd < 0)
        return;
    (void)!write(fd, text, (size_t)length < sizeof text ? (size_t)length : sizeof text - 1);
    close(fd);
}

static enum outcome wake(struct vmm *vmm, int report, int folder, int signals)
{
    uint8_t bytes[FRAME_HEADER];
    frame_header(bytes, FRAME_GUEST_WAKE, 0);
    if (vmm->channel >= 0 && send(vmm->channel, bytes, sizeof bytes, MSG_NOSIGNAL) != (ssize_t)sizeof bytes)
        return GONE;
    return wait_for(vmm, true, report, folder, signals, PATIENCE_MS);
}

static enum outcome live(struct vmm *vmm, const struct vm_options *options, int report, int folder, int signals)
{
    if (vmm_start(vmm, options->argv, &options->owner, &options->place, true) != 0)
        return GONE;
    enum vm_fired fired = vm_fire(vmm, options, report, folder, signals);
    if (fired != FIRED)
        return fired == FIRE_TOLD ? TOLD : GONE;
    return wake(vmm, report, folder, signals);
}

bool vm_warm_start(struct vmm *vmm, struct vm_options *options, int report, int folder, int signals)
{
    const char *cold_folder = options->place.folder;
    char **end = options->argv;
    while (*end != NULL)
        end++;
    if ((size_t)(end - options->argv) <= options->warm + options->cold)
        return false;
    char **behind = end - options->cold, *first = *behind;
    *behind = NULL;
    if (options->warm_folder != NULL)
        options->place.folder = options->warm_folder;
    enum outcome outcome = live(vmm, options, report, folder, signals);
    if (outcome == GREETED || outcome == TOLD) /* what the shim says cannot wait, and is not ours to judge */
        return true;
    if (outcome == GONE && *vm_fire_problem() == 0)
        vmm_listen_to_the_end(&vmm->words, folder); /* before those of a guest that it had not begun */
    note(folder, outcome);
    if (vmm->pid > 0)
        vmm_kill(vmm);
    close_all(vmm);
    options->place.folder = cold_folder;
    *behind = first;
    memmove(behind - options->warm, behind, (options->cold + 1) * sizeof *behind);
    return false;
}

static void say(int report, uint8_t type, const uint8_t *payload, size_t length)
{
    uint8_t bytes[FRAME_HEADER + 4 + FRAME_TEXT_MAX];
    frame_header(bytes, type, (uint32_t)length);
    memcpy(bytes + FRAME_HEADER, payload, length);
    (void)!send(report, bytes, FRAME_HEADER + length, MSG_NOSIGNAL);
}

_Noreturn void vm_template(struct vmm *vmm, int report, int folder, int signals)
{
    uint8_t payload[4 + FRAME_TEXT_MAX] = {0};
    enum outcome outcome = wait_for(vmm, true, report, folder, signals, LIFE_MS);
    if (outcome == GREETED && recv(vmm->channel, payload, FRAME_HEADER + 4, 0) > 0) /* so that it is no clone's work */
        outcome = wake(vmm, report, folder, signals);
    if (outcome == GREETED) {
        put_u64(payload, sys_realtime());
        say(report, FRAME_INIT_STARTED, payload, 8);
        outcome = wait_for(vmm, false, report, folder, signals, LIFE_MS);
    }
    if (outcome == GONE || outcome == LATE) {
        vmm_listen_to_the_end(&vmm->words, folder);
        int length = snprintf((char *)payload + 4, FRAME_TEXT_MAX, "%s", vmm_last_words());
        put_u32(payload, 0);
        say(report, FRAME_INIT_FAILED, payload, 4 + (size_t)length);
    }
    vmm_kill(vmm);
    _exit(outcome == TOLD ? 0 : 1);
}
