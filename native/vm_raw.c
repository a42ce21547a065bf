/* A guest of the user's own, which knows nothing of us: its console is the job's output, the machine's end the job's. */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "frame.h"
#include "sys.h"
#include "vm.h"
#include "vm_api.h"
#include "vm_options.h"

enum { LAST_MS = 1000 }; /* so long nobody may take anything of what it said last */

static struct vmm *vmm;
static int report, folder;
static char text[4096]; /* read, and not written yet */
static size_t have;

static void tell(uint8_t type, const uint8_t *payload, size_t length)
{
    uint8_t bytes[FRAME_HEADER + FRAME_USAGE];
    frame_header(bytes, type, (uint32_t)length);
    memcpy(bytes + FRAME_HEADER, payload, length);
    (void)!send(report, bytes, FRAME_HEADER + length, MSG_NOSIGNAL);
}

/* What is read is written before more is: a job that is read by nobody waits. */
static void carry(void)
{
    if (have == 0) {
        ssize_t got = read(vmm->words, text, sizeof text);
        if (got < 0 && (errno == EAGAIN || errno == EINTR))
            return;
        if (got <= 0) {
            close(vmm->words);
            vmm->words = -1;
            return;
        }
        vmm_keep(text, (size_t)got, folder);
        have = (size_t)got;
    }
    ssize_t put = write(1, text, have);
    if (put < 0 && errno != EAGAIN && errno != EINTR)
        have = 0; /* nobody reads it any more */
    else if (put > 0) {
        have -= (size_t)put;
        memmove(text, text + put, have);
    }
}

/* What it had said before its end: no more than a pipe holds, since nobody writes to that any more. */
static void carry_rest(void)
{
    while (vmm->words >= 0 || have > 0) {
        struct pollfd waited = {.fd = have > 0 ? 1 : vmm->words, .events = have > 0 ? POLLOUT : POLLIN};
        if (poll(&waited, 1, LAST_MS) <= 0)
            return;
        carry();
    }
}

static uint64_t cpu_ns(const struct timeval *time)
{
    return (uint64_t)time->tv_sec * 1000000000u + (uint64_t)time->tv_usec * 1000u;
}

static void tell_usage(void)
{
    struct rusage used;
    uint8_t payload[FRAME_USAGE];
    memset(payload, 0xff, sizeof payload); /* nobody knows the rest */
    put_u64(payload, sys_realtime());
    put_u64(payload + 24, 0); /* of out-of-memory kills: the guest's are its own */
    if (getrusage(RUSAGE_CHILDREN, &used) == 0) {
        put_u64(payload + 8, cpu_ns(&used.ru_utime) + cpu_ns(&used.ru_stime));
        put_u64(payload + 16, (uint64_t)used.ru_maxrss * 1024u);
    }
    tell(FRAME_INIT_USAGE, payload, sizeof payload);
}

/* `asked`: it was to be killed. One that somebody else kills is lost, which our end without a word says. */
static _Noreturn void end(bool asked)
{
    uint8_t status[4];
    vmm_kill(vmm);
    carry_rest();
    if (WIFSIGNALED(vmm->status) && !asked)
        _exit(1);
    tell_usage();
    put_u32(status, (uint32_t)vmm->status);
    tell(FRAME_INIT_EXITED, status, sizeof status);
    _exit(0);
}

static void hear_shim(const struct vm_options *options)
{
    static uint8_t bytes[4 * (FRAME_HEADER + 4)];
    static size_t filled;
    struct frame frame;
    long size;
    ssize_t got = recv(report, bytes + filled, sizeof bytes - filled, MSG_DONTWAIT);
    if (got < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (got <= 0) {
        vmm_kill(vmm);
        _exit(1);
    }
    filled += (size_t)got;
    while ((size = frame_parse(bytes, filled, TO_INIT, &frame)) > 0) {
        if (frame.type == FRAME_INIT_SIGNAL && get_u32(frame.payload) == SIGKILL)
            end(true);
        if (frame.type == FRAME_INIT_SIGNAL) {
            vm_api_resume(options);
            vm_api_press(options); /* a guest that does not shut down is killed when the time is up */
        }
        filled -= (size_t)size;
        memmove(bytes, bytes + size, filled);
    }
    if (size < 0)
        end(true);
}

_Noreturn void vm_raw(struct vmm *of, const struct vm_options *options, int to_shim, int to_folder, int signals)
{
    enum { SIGNALS, SHIM, WORDS, OUT, COUNT };
    uint8_t stamp[8];
    vmm = of;
    report = to_shim;
    folder = to_folder;
    put_u64(stamp, sys_realtime());
    tell(FRAME_INIT_STARTED, stamp, sizeof stamp);
    for (;;) {
        struct pollfd waited[COUNT] = {
            [SIGNALS] = {.fd = vmm->pid != 0 ? signals : -1, .events = POLLIN},
            [SHIM] = {.fd = report, .events = POLLIN},
            [WORDS] = {.fd = have == 0 ? vmm->words : -1, .events = POLLIN},
            [OUT] = {.fd = have > 0 ? 1 : -1, .events = POLLOUT},
        };
        if (poll(waited, COUNT, -1) < 0)
            continue;
        if (waited[SIGNALS].revents != 0)
            vmm_reap(vmm, signals);
        if (waited[SHIM].revents != 0)
            hear_shim(options);
        if (waited[WORDS].revents != 0 || waited[OUT].revents != 0)
            carry();
        if (vmm->pid == 0 && vmm->words < 0 && have == 0)
            end(false);
    }
}
