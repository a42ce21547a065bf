#include "vm_fire.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "frame.h"
#include "sys.h"
#include "vm_api.h"

enum {
    PATIENCE_MS = 30000, /* for all of it: what a load reads may lie on a slow disk */
    LOOK_MS = 1,         /* between two looks for its socket, which nobody is told of */
    AGAIN_MS = 50,       /* between two looks at what the shim says */
    REST_MS = 100,       /* that the rest of an answer which refuses may need */
    STATUS = sizeof "HTTP/1.1 2" - 1,
};

enum state { READY, QUIET, ENDED, TOLD };

static struct vmm *vmm;
static const struct vm_options *options;
static int report, folder, signals;
static uint64_t until; /* in ms */
static char problem[512];

static uint64_t now_ms(void)
{
    return sys_boottime() / 1000000u;
}

/* Anything else may wait until there is a guest that can be told. */
static bool is_over(void)
{
    uint8_t bytes[4 * (FRAME_HEADER + 4)];
    struct frame frame;
    long size;
    ssize_t got = recv(report, bytes, sizeof bytes, MSG_PEEK | MSG_DONTWAIT);
    if (got <= 0)
        return got == 0 || (errno != EAGAIN && errno != EINTR);
    for (size_t at = 0; (size = frame_parse(bytes + at, (size_t)got - at, TO_INIT, &frame)) > 0; at += (size_t)size)
        if (frame.type == FRAME_INIT_SIGNAL && get_u32(frame.payload) == SIGKILL)
            return true;
    return size < 0;
}

/* Until there is something to read on `fd`, and at most so many ms. */
static enum state attend(int fd, uint64_t most)
{
    enum { FD, SIGNALS, REPORT, WORDS, COUNT };
    uint64_t end = now_ms() + most;
    bool hears = true; /* else what lies there is looked at from time to time: more may have come */
    for (;;) {
        uint64_t now = now_ms(), left = now < end ? end - now : 0;
        struct pollfd waited[COUNT] = {
            [FD] = {.fd = fd, .events = POLLIN},
            [SIGNALS] = {.fd = signals, .events = POLLIN},
            [REPORT] = {.fd = hears ? report : -1, .events = POLLIN},
            [WORDS] = {.fd = vmm->words, .events = POLLIN},
        };
        int ready = poll(waited, COUNT, (int)(hears || left < AGAIN_MS ? left : AGAIN_MS));
        if (ready < 0)
            continue;
        if (waited[WORDS].revents != 0)
            vmm_listen(&vmm->words, folder);
        if (waited[SIGNALS].revents != 0)
            vmm_reap(vmm, signals);
        if ((!hears || waited[REPORT].revents != 0) && is_over())
            return TOLD;
        hears = hears && waited[REPORT].revents == 0;
        if (waited[FD].revents != 0)
            return READY;
        if (vmm->pid == 0)
            return ENDED;
        if (ready == 0 && now_ms() >= end)
            return QUIET;
    }
}

static enum vm_fired fail(const struct vm_call *call, const char *why)
{
    snprintf(problem, sizeof problem, "%s: %s", call->call, why);
    for (char *at = problem; *at != 0; at++)
        if (*at < ' ' || *at > '~')
            *at = '?';
    return FIRE_FAILED;
}

/* Of `{"fault_message": "..."}`, as far as it has come; else the line of the status. */
static const char *fault_in(char *answer)
{
    static const char field[] = "\"fault_message\"";
    char *found = strstr(answer, field);
    found = found != NULL ? strchr(found + sizeof field - 1, '"') : NULL;
    if (found == NULL) {
        answer[strcspn(answer, "\r\n")] = 0;
        return answer;
    }
    char *end = ++found;
    while (*end != 0 && *end != '"')
        end += *end == '\\' && end[1] != 0 ? 2 : 1;
    *end = 0;
    return found;
}

/* https://www.rfc-editor.org/rfc/rfc9112#name-status-line */
static bool is_fine(const char *answer)
{
    return strncmp(answer, "HTTP/1.", 7) == 0 && answer[STATUS - 1] == '2';
}

static enum vm_fired hear(const struct vm_call *call, int fd)
{
    char answer[1024];
    size_t have = 0;
    for (;;) {
        uint64_t now = now_ms(), left = now < until ? until - now : 0;
        enum state state = attend(fd, have >= STATUS && REST_MS < left ? REST_MS : left);
        if (state == TOLD)
            return FIRE_TOLD;
        ssize_t got = state == READY ? recv(fd, answer + have, sizeof answer - 1 - have, MSG_DONTWAIT) : 0;
        if (got < 0 && (errno == EAGAIN || errno == EINTR))
            continue;
        have += got > 0 ? (size_t)got : 0;
        answer[have] = 0;
        if (have >= STATUS && is_fine(answer))
            return FIRED;
        if (have >= STATUS && (got <= 0 || strchr(answer, '}') != NULL))
            return fail(call, fault_in(answer));
        if (got <= 0)
            return state == ENDED ? FIRE_FAILED : fail(call, state == QUIET ? "it does not answer" : "it hung up");
    }
}

static enum vm_fired make(const struct vm_call *call)
{
    int fd;
    while ((fd = vm_api_say(options, call->call, call->body)) < 0) {
        enum state state = attend(-1, LOOK_MS);
        if (state == TOLD)
            return FIRE_TOLD;
        if (state == ENDED)
            return FIRE_FAILED;
        if (now_ms() >= until)
            return fail(call, "nobody is at its socket");
    }
    enum vm_fired result = hear(call, fd);
    close(fd);
    return result;
}

void vm_fire_know(struct vmm *of, const struct vm_options *told, int to_shim, int to_folder, int heard)
{
    vmm = of;
    options = told;
    report = to_shim;
    folder = to_folder;
    signals = heard;
}

enum vm_fired vm_fire_one(const struct vm_call *call, int most)
{
    problem[0] = 0;
    until = now_ms() + (uint64_t)most;
    return make(call);
}

enum vm_fired vm_fire(struct vmm *of, const struct vm_options *told, int to_shim, int to_folder, int heard)
{
    enum vm_fired result = FIRED;
    vm_fire_know(of, told, to_shim, to_folder, heard);
    until = now_ms() + PATIENCE_MS;
    for (size_t i = 0; i < options->call_count && result == FIRED; i++)
        result = make(&options->calls[i]);
    return result;
}

const char *vm_fire_problem(void)
{
    return problem;
}
