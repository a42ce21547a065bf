/* `dms-vm` runs a virtual machine's monitor, and is towards the shim the init of the job that runs in the guest.
 * docs/protocol.md, section 10; its options: vm_options.h.
 *
 * What the guest sends is hostile: each frame is held in one buffer of fixed size and is gone from it before the next is
 * read; nothing is read that cannot be passed on. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "frame.h"
#include "sys.h"
#include "vm.h"
#include "vm_api.h"
#include "vm_fire.h"
#include "vm_kept.h"
#include "vm_monitor.h"
#include "vm_options.h"
#include "vm_suspend.h"
#include "vm_terminal.h"
#include "vm_warm.h"
#include "vmm.h"

enum { REPORT = 3, FOLDER = 4, CONFIG = 5, FIRST_OF_OURS = 100 };

#define WHOLE (FRAME_HEADER + FRAME_DATA_MAX)

static int report, folder, configuration;
static struct vmm vmm;
static struct vm_options options;

static uint8_t in[WHOLE];
static size_t in_have;
static size_t pending;     /* bytes of the frame at the head of `in` that are not passed on yet */
static uint8_t pending_to; /* 1 or 2 */
static uint32_t input_room; /* what the guest takes of the job's stdin */
static bool has_input, greeted, started, over;

static _Noreturn void leave(int code)
{
    vmm_kill(&vmm);
    _exit(code);
}

void vm_tell(uint8_t type, const uint8_t *payload, size_t length)
{
    uint8_t bytes[FRAME_HEADER + 4 + FRAME_TEXT_MAX];
    frame_header(bytes, type, (uint32_t)length);
    memcpy(bytes + FRAME_HEADER, payload, length);
    if (send(report, bytes, FRAME_HEADER + length, MSG_NOSIGNAL) < 0)
        leave(1);
}

/* Before the job runs it is why that never will; afterwards it stands in the console's file only. */
_Noreturn void vm_fail(const char *what, const char *detail)
{
    uint8_t payload[4 + FRAME_TEXT_MAX];
    char text[FRAME_TEXT_MAX];
    int length = snprintf(text, sizeof text, "cannot run the guest: %s%s%s", what, *detail != 0 ? ": " : "", detail);
    if (length >= (int)sizeof text)
        length = (int)sizeof text - 1;
    put_u32(payload, 0);
    memcpy(payload + 4, text, (size_t)length);
    if (!started)
        vm_tell(FRAME_INIT_FAILED, payload, 4 + (size_t)length);
    leave(1);
}

/* What finds no room is lost: a guest that does not read has only itself to blame. */
static void give(uint8_t type, const uint8_t *payload, size_t length)
{
    vm_give(0, type, payload, length);
}

/* A part of a descriptor's content as one frame; the length of it, 0 at its end. */
static ssize_t give_part(int fd, uint8_t type, size_t most)
{
    uint8_t bytes[FRAME_DATA_MAX];
    ssize_t got = read(fd, bytes, most < sizeof bytes ? most : sizeof bytes);
    if (got > 0 || (got == 0 && type == FRAME_GUEST_STDIN))
        give(type, bytes, (size_t)got);
    return got;
}

void vm_give_go(void)
{
    uint8_t go[GO_LENGTH]; /* a guest may be a clone of a snapshot: it has the time and its random numbers from us */
    put_u64(go, sys_realtime());
    if (getrandom(go + 8, GO_RANDOM, 0) != (ssize_t)GO_RANDOM)
        vm_fail("there are no random numbers for it", strerror(errno));
    input_room = 0; /* it says what it takes */
    give(FRAME_GUEST_GO, go, sizeof go);
}

static void give_configuration(void)
{
    while (configuration >= 0 && vm_has_room()) {
        ssize_t got = give_part(configuration, FRAME_GUEST_CONFIG, FRAME_DATA_MAX);
        if (got < 0)
            vm_fail("its configuration cannot be read", strerror(errno));
        if (got > 0)
            continue;
        vm_give_go();
        close(configuration);
        configuration = -1;
    }
}

static void give_input(void)
{
    ssize_t got = give_part(0, FRAME_GUEST_STDIN, input_room);
    if (got > 0)
        input_room -= (uint32_t)got;
    else if (got == 0 || (errno != EAGAIN && errno != EINTR))
        has_input = false;
}

static bool wants_input(void)
{
    return has_input && configuration < 0 && input_room > 0 && vm_has_room() && !vm_suspend_waits();
}

static void hear_guest(const struct frame *frame)
{
    uint8_t stamp[8];
    if (!greeted && (frame->type != FRAME_GUEST_HELLO || get_u32(frame->payload) != PROTOCOL_VERSION))
        vm_fail("its agent speaks another version of the protocol", "");
    switch (frame->type) {
    case FRAME_GUEST_HELLO:
        if (started && !greeted)
            vm_give_go(); /* it has called again, and knows its job */
        greeted = true;
        break;
    case FRAME_GUEST_STDOUT:
    case FRAME_GUEST_STDERR:
        pending = frame->length;
        pending_to = frame->type == FRAME_GUEST_STDOUT ? 1 : 2;
        break;
    case FRAME_GUEST_ROOM:
        /* A guest that gives more than it can take harms itself only. */
        if (get_u32(frame->payload) <= UINT32_MAX - input_room)
            input_room += get_u32(frame->payload);
        break;
    case FRAME_INIT_STARTED:
        started = true;
        put_u64(stamp, sys_realtime()); /* a guest's clock is its own */
        vm_tell(FRAME_INIT_STARTED, stamp, sizeof stamp);
        break;
    case FRAME_GUEST_INPUT_END:
        has_input = false;
        sys_hush(0, 0); /* who writes it learns that nobody reads */
        break;
    case FRAME_GUEST_FROZEN:
        vm_suspend_frozen(&vmm, &options, report, folder);
        greeted = vmm.channel >= 0;
        break;
    case FRAME_GUEST_END:
        over = true;
        break;
    default: /* what the job's init in the guest says: the shim reads it as it reads any init's */
        vm_tell(frame->type, frame->payload, frame->length);
        break;
    }
}

/* Passes the rest of the frame at the head on; false while it has to wait. */
static bool pass_on(size_t size)
{
    while (pending > 0) {
        ssize_t put = write(pending_to, in + size - pending, pending);
        if (put < 0 && errno == EAGAIN)
            return false;
        if (put < 0 && errno != EINTR)
            pending = 0; /* nobody reads it any more */
        else if (put > 0)
            pending -= (size_t)put;
    }
    return true;
}

static void work_through(void)
{
    static size_t size; /* of the frame at the head */
    for (;;) {
        struct frame frame;
        if (pending > 0 && !pass_on(size))
            return;
        if (size > 0) {
            in_have -= size;
            memmove(in, in + size, in_have);
            size = 0;
        }
        if (over)
            leave(0);
        long parsed = frame_parse(in, in_have, FROM_GUEST, &frame);
        if (parsed < 0 || (parsed > 0 && frame.channel != 0 && !vm_clients_hear(&frame)))
            vm_fail("it broke the protocol", vmm_last_words());
        if (parsed == 0)
            return;
        size = (size_t)parsed;
        if (frame.channel == 0)
            hear_guest(&frame);
    }
}

static _Noreturn void channel_ended(void)
{
    char why[64];
    int status = 0;
    vmm_listen_to_the_end(&vmm.words, folder);
    vmm_listen_to_the_end(&vmm.console, folder);
    vmm_kill(&vmm);
    status = vmm.status;
    if (WIFSIGNALED(status))
        snprintf(why, sizeof why, "its monitor was killed by signal %d", WTERMSIG(status));
    else
        snprintf(why, sizeof why, "its monitor ended with %d", WEXITSTATUS(status));
    vm_fail(why, vmm_last_words());
}

static void channel_ready(void)
{
    ssize_t got = recv(vmm.channel, in + in_have, sizeof in - in_have, MSG_DONTWAIT);
    if (got < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (got <= 0)
        channel_ended();
    in_have += (size_t)got;
    work_through();
}

static void hear_shim(void)
{
    static uint8_t bytes[4 * (FRAME_HEADER + 4)];
    static size_t have;
    struct frame frame;
    long size;
    ssize_t got = recv(report, bytes + have, sizeof bytes - have, MSG_DONTWAIT);
    if (got < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (got <= 0)
        leave(1);
    have += (size_t)got;
    while ((size = frame_parse(bytes, have, TO_INIT, &frame)) > 0) {
        /* Before the guest listens there is no job: a stop at that time ends all. */
        if (!started && frame.type == FRAME_INIT_SIGNAL && get_u32(frame.payload) == SIGKILL)
            leave(1);
        vm_api_resume(&options); /* a guest that stands still hears nothing */
        if (frame.type == FRAME_INIT_SUSPEND) {
            vm_suspend_begin(started && !over, has_input);
        } else {
            vm_suspend_stopped();
            give(frame.type, frame.payload, frame.length);
        }
        have -= (size_t)size;
        memmove(bytes, bytes + size, have);
    }
    if (size < 0)
        leave(1);
}

static void reap(int signals)
{
    struct signalfd_siginfo info;
    uint8_t size[8];
    while (read(signals, &info, sizeof info) == sizeof info)
        if (info.ssi_signo == SIGWINCH && vm_terminal_size(size) == 0)
            give(FRAME_GUEST_RESIZE, size, sizeof size);
    if (vmm.pid != 0 && waitpid(vmm.pid, &vmm.status, WNOHANG) == vmm.pid)
        vmm.pid = 0; /* what it had said before stands in the channel */
    if (vmm.pid == 0 && vmm.channel < 0)
        channel_ended();
}

static _Noreturn void loop(int signals)
{
    enum { SIGNALS, SHIM, MONITOR, CHANNEL, OUT, INPUT, CONSOLE, WORDS, CLIENTS };
    for (;;) {
        struct pollfd waited[CLIENTS + VM_CLIENT_POLLS] = {
            [SIGNALS] = {.fd = signals, .events = POLLIN},
            [SHIM] = {.fd = report, .events = started && !greeted ? 0 : POLLIN}, /* it has called again: soon */
            [MONITOR] = {.fd = vmm.monitor, .events = POLLIN},
            [OUT] = {.fd = pending > 0 ? pending_to : -1, .events = POLLOUT},
            [INPUT] = {.fd = wants_input() ? 0 : -1, .events = POLLIN},
            [CONSOLE] = {.fd = vmm.console, .events = POLLIN},
            [WORDS] = {.fd = vmm.words, .events = POLLIN},
        };
        vm_clients_wait(waited + CLIENTS, started && greeted && !vm_suspend_waits());
        short events = (short)((pending > 0 ? 0 : POLLIN) | (vm_out_waits() ? POLLOUT : 0));
        waited[CHANNEL] = (struct pollfd){.fd = events != 0 ? vmm.channel : -1, .events = events};
        if (vmm.channel < 0)
            waited[CHANNEL] = (struct pollfd){.fd = vmm.listening, .events = POLLIN};
        if (poll(waited, CLIENTS + VM_CLIENT_POLLS, greeted ? vm_suspend_patience() : vm_kept_patience()) < 0)
            continue;
        vm_suspend_late();
        if (!greeted && vm_kept_patience() == 0)
            vm_fail("its agent does not call again", "");
        if (waited[SIGNALS].revents != 0)
            reap(signals);
        if (waited[SHIM].revents != 0)
            hear_shim();
        if (waited[MONITOR].revents != 0)
            vm_monitor_drain(&vmm.monitor);
        if (waited[CONSOLE].revents != 0)
            vmm_listen(&vmm.console, folder);
        if (waited[WORDS].revents != 0)
            vmm_listen(&vmm.words, folder);
        if (waited[OUT].revents != 0)
            work_through();
        if (vmm.channel < 0 && waited[CHANNEL].revents != 0)
            vmm_accept(&vmm);
        else if (pending == 0 && waited[CHANNEL].revents & (POLLIN | POLLHUP | POLLERR))
            channel_ready();
        if (greeted)
            give_configuration();
        if (waited[INPUT].revents != 0)
            give_input();
        vm_clients_serve(waited + CLIENTS);
        if (greeted && vm_out_waits())
            vm_out_flush(vmm.channel);
    }
}

int main(int argc, char **argv)
{
    const char *problem = "";
    sigset_t all, heard;
    report = fcntl(REPORT, F_DUPFD_CLOEXEC, FIRST_OF_OURS);
    folder = fcntl(FOLDER, F_DUPFD_CLOEXEC, FIRST_OF_OURS);
    configuration = fcntl(CONFIG, F_DUPFD_CLOEXEC, FIRST_OF_OURS);
    if (report < 0 || folder < 0 || configuration < 0)
        return 1;
    for (int fd = REPORT; fd <= CONFIG; fd++)
        close(fd);
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, NULL);
    uint8_t born[1];
    vm_tell(FRAME_INIT_BORN, born, 0);
    if (argc < 1 || (problem = vm_options_read(argv, &options)) != NULL)
        vm_fail(problem, strerror(errno));
    has_input = options.input;
    sigemptyset(&heard);
    sigaddset(&heard, SIGCHLD);
    sigaddset(&heard, SIGWINCH);
    int signals = signalfd(-1, &heard, SFD_NONBLOCK | SFD_CLOEXEC);
    /* A stream that is full must not keep us from passing a signal on. */
    if (signals < 0 || fcntl(1, F_SETFL, O_WRONLY | O_NONBLOCK) != 0 || fcntl(2, F_SETFL, O_WRONLY | O_NONBLOCK) != 0)
        return 1;
    if (options.terminal != NULL && vm_terminal_take(report, options.terminal) != 0)
        vm_fail("its terminal cannot be made", strerror(errno));
    if (fchdir(folder) != 0)
        vm_fail("its folder cannot be entered", strerror(errno));
    if (options.restored > 0 || options.kept) {
        vm_clients_listen(folder); /* before anybody hears that it goes on */
        vm_suspend_restore(&vmm, &options, report, folder, signals);
        close(configuration);
        configuration = -1;
        started = true;
        greeted = !options.kept;
    } else if ((options.warm == 0 || !vm_warm_start(&vmm, &options, report, folder, signals)) &&
               vmm_start(&vmm, options.argv, &options.owner, &options.place, !options.raw) != 0)
        vm_fail("its monitor cannot be started", strerror(errno));
    vm_fire_know(&vmm, &options, report, folder, signals);
    if (options.template)
        vm_template(&vmm, report, folder, signals);
    if (options.raw)
        vm_raw(&vmm, &options, report, folder, signals);
    if (options.restored == 0 && !options.kept)
        vm_clients_listen(folder);
    loop(signals);
}
