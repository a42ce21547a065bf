/* A guest of the user's own, which knows nothing of us: its console is the job's output, the machine's end the job's. */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "frame.h"
#include "sys.h"
#include "vm.h"
#include "vm_api.h"
#include "vm_options.h"

static struct vmm *vmm;
static int report;

static void tell(uint8_t type, const uint8_t *payload, size_t length)
{
    uint8_t bytes[FRAME_HEADER + 8];
    frame_header(bytes, type, (uint32_t)length);
    memcpy(bytes + FRAME_HEADER, payload, length);
    (void)!send(report, bytes, FRAME_HEADER + length, MSG_NOSIGNAL);
}

static _Noreturn void end(void)
{
    uint8_t status[4];
    vmm_kill(vmm);
    put_u32(status, (uint32_t)vmm->status);
    tell(FRAME_INIT_EXITED, status, sizeof status);
    _exit(0);
}

static void hear_shim(const struct vm_options *options)
{
    static uint8_t bytes[4 * (FRAME_HEADER + 4)];
    static size_t have;
    struct frame frame;
    long size;
    ssize_t got = recv(report, bytes + have, sizeof bytes - have, MSG_DONTWAIT);
    if (got < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (got <= 0) {
        vmm_kill(vmm);
        _exit(1);
    }
    have += (size_t)got;
    while ((size = frame_parse(bytes, have, TO_INIT, &frame)) > 0) {
        if (frame.type == FRAME_INIT_SIGNAL && get_u32(frame.payload) == SIGKILL)
            end();
        if (frame.type == FRAME_INIT_SIGNAL) {
            vm_api_resume(options);
            vm_api_press(options); /* a guest that does not shut down is killed when the time is up */
        }
        have -= (size_t)size;
        memmove(bytes, bytes + size, have);
    }
    if (size < 0)
        end();
}

/* What is read is written before more is: a job that is read by nobody waits. */
static void carry(char *text, size_t *have, int folder)
{
    if (*have == 0) {
        ssize_t got = read(vmm->words, text, 4096);
        if (got < 0 && (errno == EAGAIN || errno == EINTR))
            return;
        if (got <= 0) {
            close(vmm->words);
            vmm->words = -1;
            return;
        }
        vmm_keep(text, (size_t)got, folder);
        *have = (size_t)got;
    }
    ssize_t put = write(1, text, *have);
    if (put < 0 && errno != EAGAIN && errno != EINTR)
        *have = 0; /* nobody reads it any more */
    else if (put > 0) {
        *have -= (size_t)put;
        memmove(text, text + put, *have);
    }
}

_Noreturn void vm_raw(struct vmm *of, const struct vm_options *options, int to_shim, int folder, int signals)
{
    enum { SIGNALS, SHIM, WORDS, OUT, COUNT };
    static char text[4096];
    size_t have = 0;
    uint8_t stamp[8];
    vmm = of;
    report = to_shim;
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
        if (waited[SIGNALS].revents != 0) {
            struct signalfd_siginfo info;
            while (read(signals, &info, sizeof info) == sizeof info)
                ;
            if (waitpid(vmm->pid, &vmm->status, WNOHANG) == vmm->pid)
                vmm->pid = 0;
        }
        if (waited[SHIM].revents != 0)
            hear_shim(options);
        if (waited[WORDS].revents != 0 || waited[OUT].revents != 0)
            carry(text, &have, folder);
        if (vmm->pid == 0 && vmm->words < 0 && have == 0)
            end();
    }
}
