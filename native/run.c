/* `dms-shim run`: from birth to READY, then the loop. */
#include "modes.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "complain.h"
#include "events.h"
#include "input.h"
#include "log.h"
#include "mounts.h"
#include "network.h"
#include "session.h"
#include "shim.h"
#include "streams.h"
#include "suspend.h"
#include "sys.h"

#define BATCH 16

struct shim shim = {.report = -1, .init_handle = -1, .job_status = -1, .init_status = -1};

static uint8_t payload[FRAME_CONFIG_MAX + 1]; /* used as far as the CONFIG is long */
static int fds[CONFIG_FDS];
static size_t fd_count;

/* A birth that failed: says why to the caller and leaves. `errno` counts. */
static _Noreturn void stillborn(int caller, const char *text)
{
    uint8_t bytes[FRAME_HEADER + 4 + FRAME_TEXT_MAX];
    size_t length = error_payload(bytes + FRAME_HEADER, errno, text);
    frame_header(bytes, FRAME_FAILED, (uint32_t)length);
    send(caller, bytes, FRAME_HEADER + length, MSG_DONTWAIT | MSG_NOSIGNAL);
    _exit(1);
}

static void keep_descriptors(int caller, struct msghdr *message)
{
    for (struct cmsghdr *part = CMSG_FIRSTHDR(message); part != NULL; part = CMSG_NXTHDR(message, part)) {
        if (part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_RIGHTS)
            continue;
        fd_count = (part->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        memcpy(fds, CMSG_DATA(part), fd_count * sizeof(int));
    }
    errno = EMFILE;
    if (message->msg_flags & MSG_CTRUNC)
        stillborn(caller, "the descriptors did not arrive: too many open files");
}

static void receive_exactly(int caller, uint8_t *at, size_t length, bool descriptors)
{
    static union {
        struct cmsghdr header;
        uint8_t space[CMSG_SPACE(sizeof(int) * CONFIG_FDS)];
    } control;
    while (length > 0) {
        struct iovec part = {at, length};
        struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
        if (descriptors) {
            message.msg_control = &control;
            message.msg_controllen = sizeof control;
        }
        ssize_t got = recvmsg(caller, &message, MSG_CMSG_CLOEXEC);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            _exit(1); /* the caller thought better of it */
        if (descriptors)
            keep_descriptors(caller, &message);
        descriptors = false;
        at += got;
        length -= (size_t)got;
    }
}

static void receive_config(int caller)
{
    uint8_t header[FRAME_HEADER];
    receive_exactly(caller, header, sizeof header, true);
    uint32_t length = get_u32(header);
    errno = EPROTO;
    if (header[4] != FRAME_CONFIG || length > FRAME_CONFIG_MAX)
        stillborn(caller, "CONFIG expected");
    receive_exactly(caller, payload, length, false);
    const char *wrong = config_parse(payload, length, fds, fd_count, &shim.config);
    errno = EPROTO;
    if (wrong != NULL)
        stillborn(caller, wrong);
}

/* A move takes the kernel a grace period of RCU, some 10 ms when nobody else has just paid for one
 * (cgroup_threadgroup_rwsem in kernel/cgroup/cgroup.c); a child of ours waits for it while we go on, and so does the
 * runtime, for the same one. */
static _Noreturn void cannot_join(int caller, const char *path)
{
    char text[FRAME_TEXT_MAX];
    snprintf(text, sizeof text, "cannot join %s", path);
    stillborn(caller, text);
}

static void leave_cgroups(int caller)
{
    int groups[CONFIG_LIST];
    char text[16];
    for (size_t i = 0; i < shim.config.cgroup_joins_first; i++)
        if (sys_write_file(shim.config.cgroup_join_first[i], "0", 1) != 0)
            cannot_join(caller, shim.config.cgroup_join_first[i]);
    if (shim.config.cgroup_joins == 0)
        return;
    for (size_t i = 0; i < shim.config.cgroup_joins; i++)
        if ((groups[i] = open(shim.config.cgroup_join[i], O_WRONLY | O_CLOEXEC)) < 0)
            cannot_join(caller, shim.config.cgroup_join[i]);
    pid_t self = getpid();
    shim.joiner = fork();
    if (shim.joiner < 0)
        stillborn(caller, "cannot fork");
    if (shim.joiner > 0) {
        for (size_t i = 0; i < shim.config.cgroup_joins; i++)
            close(groups[i]);
        return;
    }
    snprintf(text, sizeof text, "%d", (int)self);
    if (prctl(PR_SET_PDEATHSIG, SIGKILL) != 0 || getppid() != self)
        _exit(1);
    for (size_t i = 0; i < shim.config.cgroup_joins; i++)
        if (write(groups[i], text, strlen(text)) < 0)
            _exit(1);
    _exit(0);
}

/* A spare shim is in it already; the mounts are those of now, not of its birth. */
static void enter_userns(int caller)
{
    char text[FRAME_TEXT_MAX] = "cannot make a mount namespace";
    int entered = shim.in_userns ? unshare(CLONE_NEWNS)
                                 : userns_enter(&shim.config.userns, CLONE_NEWNS, text, sizeof text);
    if (entered != 0 || mounts_reopen(&shim.config, text, sizeof text) != 0)
        stillborn(caller, text);
}

static void make_mounts(int caller)
{
    char text[FRAME_TEXT_MAX] = "";
    struct config *config = &shim.config;
    if (config->userns.newuidmap != NULL)
        enter_userns(caller);
    int userns = config->idmap.count > 0 ? idmap_namespace(&config->idmap) : -1;
    if (config->idmap.count > 0 && userns < 0)
        stillborn(caller, "cannot id-map anything");
    if (mounts_stdin(config, userns, text, sizeof text) != 0)
        stillborn(caller, text);
    if (mounts_wanted(config) && (mounts_clone(config, userns, text, sizeof text) != 0 ||
                                  mounts_enter(config, text, sizeof text) != 0))
        stillborn(caller, text);
    if (userns >= 0)
        close(userns);
}

static void make_network(int caller)
{
    char text[FRAME_TEXT_MAX] = "";
    complain_in(shim.folder);
    if (network_up(&shim.config, shim.folder, text, sizeof text) != 0)
        stillborn(caller, text);
}

static void answer_state(int client)
{
    uint8_t state[28];
    put_u32(state, PROTOCOL_VERSION);
    put_u32(state + 4, suspend_in_hand() && shim.cause == CAUSE_NONE ? PHASE_SUSPENDING : shim.phase);
    put_u64(state + 8, shim.started_at);
    put_u32(state + 16, (uint32_t)getpid());
    put_u64(state + 20, sys_start_time());
    client_send(client, FRAME_STATE, state, sizeof state);
}

static void answer_go(void)
{
    uint8_t bytes[4 + FRAME_TEXT_MAX];
    if (shim.phase == PHASE_CREATED) {
        life_go();
    } else if (shim.started) {
        put_u64(bytes, shim.started_at);
        client_send(CLIENT_CALLER, FRAME_STARTED, bytes, 8);
    } else if (shim.failed) {
        client_send(CLIENT_CALLER, FRAME_FAILED, bytes, error_payload(bytes, shim.error_number, shim.error));
    }
}

static void answer_stop(int client, const uint8_t *asked)
{
    uint32_t signum = get_u32(asked), cause = get_u32(asked + 4);
    uint64_t grace = get_u64(asked + 8);
    if (signum < 1 || signum > 64 || (cause != CAUSE_DEADLINE && cause != CAUSE_STOP)) {
        client_refuse(client, EINVAL, "no such signal or cause");
        return;
    }
    if (shim.phase == PHASE_CREATED) {
        client_send(client, FRAME_OK, NULL, 0);
        end_unborn();
    }
    uint64_t longest = UINT64_MAX / 4 / 1000000; /* ms that still fit a clock of ns */
    life_stop((enum stop_cause)cause, signum, grace < longest ? grace : longest);
    client_send(client, FRAME_OK, NULL, 0);
}

static void serve(int client, const struct frame *frame)
{
    uint32_t number = frame->length >= 4 ? get_u32(frame->payload) : 0;
    const int *descriptors;
    int count;
    if (suspend_in_hand() && frame->type != FRAME_HELLO && frame->type != FRAME_STOP && frame->type != FRAME_CLOSE &&
        frame->type != FRAME_SUSPEND) {
        client_refuse(client, EBUSY, "it is being suspended");
        return;
    }
    switch (frame->type) {
    case FRAME_GO:
        answer_go();
        break;
    case FRAME_STOP:
        answer_stop(client, frame->payload);
        break;
    case FRAME_SIGNAL:
        if (number < 1 || number > 64)
            client_refuse(client, EINVAL, "no such signal");
        else if (!life_signal(number))
            client_refuse(client, ESRCH, "the job does not run");
        else
            client_send(client, FRAME_OK, NULL, 0);
        break;
    case FRAME_HELLO:
        /* What the caller sent before it died counts: "created" is never said of a job whose GO is on its way. */
        if (client != CLIENT_CALLER)
            client_ready(CLIENT_CALLER);
        if (number != PROTOCOL_VERSION)
            client_refuse(client, EPROTO, "another version of the protocol");
        else
            answer_state(client);
        break;
    case FRAME_OPEN:
        count = client_descriptors(client, &descriptors);
        session_open(client, frame, descriptors, count);
        break;
    case FRAME_ENTER:
        session_enter(client, (pid_t)number);
        break;
    case FRAME_CLOSE:
        session_close(client, number != 0);
        break;
    case FRAME_SUSPEND:
        suspend_ask(client);
        break;
    case FRAME_ATTACH:
    case FRAME_CLOSE_INPUT:
    case FRAME_RESIZE:
        input_serve(client, frame, shim.phase == PHASE_RUNNING && !shim.job_reported && !shim.init_gone);
        break;
    default:
        break;
    }
}

static void client_left(int client)
{
    input_client_left(client);
    suspend_client_left(client);
    if (client != CLIENT_CALLER)
        session_client_left(client);
    else if (shim.phase == PHASE_CREATED)
        end_unborn();
}

static void watch(int fd, uint64_t tag, int caller)
{
    struct epoll_event event = {.events = EPOLLIN, .data.u64 = tag};
    if (fd < 0 || epoll_ctl(shim.epoll, EPOLL_CTL_ADD, fd, &event) != 0)
        stillborn(caller, "cannot set up the event loop");
}

static void prepare(int caller, int signals)
{
    const struct config *config = &shim.config;
    if (record_reserve(shim.folder, config->reserve) != 0)
        stillborn(caller, "cannot reserve space for the exit record");
    if (log_open(shim.folder, config->log_cap, config->segment, config->sync, config->resumed != 0) != 0)
        stillborn(caller, "cannot make the log");
    shim.epoll = epoll_create1(EPOLL_CLOEXEC);
    watch(signals, EVENT_SIGNAL, caller);
    watch(timers_open(), EVENT_TIMER, caller);
    if (clients_open(shim.folder, caller, shim.epoll, serve, client_left) != 0)
        stillborn(caller, "cannot listen on the control socket");
    shim.phase = PHASE_CREATED;
    uint8_t ready[16];
    put_u32(ready, PROTOCOL_VERSION);
    put_u32(ready + 4, (uint32_t)getpid());
    put_u64(ready + 8, sys_start_time());
    client_send(CLIENT_CALLER, FRAME_READY, ready, sizeof ready);
}

static void handle(uint64_t tag, int signals)
{
    struct signalfd_siginfo info[8];
    if (tag >= EVENT_CLIENT) {
        client_ready((int)(tag - EVENT_CLIENT));
        return;
    }
    switch ((enum event)tag) {
    case EVENT_SIGNAL:
        while (read(signals, info, sizeof info) > 0)
            ;
        life_reap();
        break;
    case EVENT_TIMER:
        timers_run(life_timer);
        break;
    case EVENT_LISTENER:
        clients_accept();
        break;
    case EVENT_REPORT:
        report_ready();
        break;
    case EVENT_STDOUT:
    case EVENT_STDERR:
    case EVENT_TERMINAL:
        stream_ready((int)(tag - EVENT_STDOUT));
        if (shim.phase == PHASE_ENDING && streams_closed())
            end_streams();
        break;
    case EVENT_INPUT:
        input_ready();
        break;
    case EVENT_CLIENT:
        break;
    }
    life_progress();
}

static _Noreturn void loop(int signals)
{
    struct epoll_event events[BATCH];
    for (;;) {
        int count = epoll_wait(shim.epoll, events, BATCH, streams_buffer_dirty() ? 0 : -1);
        if (count == 0)
            streams_buffer_release();
        for (int i = 0; i < count; i++)
            handle(events[i].data.u64, signals);
    }
}

int mode_run(char **maps)
{
    char text[FRAME_TEXT_MAX];
    sigset_t all, child;
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, NULL);
    /* Descriptor 0 is the caller, 1 the folder; both leave the low numbers, which belong to the job's own. */
    int caller = sys_move_fd(0, 10), nothing = open("/dev/null", O_RDWR | O_CLOEXEC);
    shim.folder = sys_move_fd(1, 10);
    if (caller < 0 || shim.folder < 0 || nothing < 0)
        return 1;
    for (int fd = 0; fd < 3; fd++)
        dup3(nothing, fd, 0);
    if (nothing > 2)
        close(nothing);
    if (detach() != 0)
        stillborn(caller, "cannot fork");
    if (chdir("/") != 0 || prctl(PR_SET_CHILD_SUBREAPER, 1) != 0)
        stillborn(caller, "cannot become the reaper of the job");
    umask(0077);
    sigemptyset(&child);
    sigaddset(&child, SIGCHLD);
    int signals = signalfd(-1, &child, SFD_NONBLOCK | SFD_CLOEXEC);
    /* While nobody waits for us: it takes two programs some milliseconds. */
    if (maps != NULL && userns_enter(&(struct userns){maps[0], maps[1], maps[2], maps[3]}, 0, text, sizeof text) != 0)
        stillborn(caller, text);
    shim.in_userns = maps != NULL;
    receive_config(caller);
    if (shim.config.folder_fd >= 0) {
        close(shim.folder);
        shim.folder = shim.config.folder_fd;
    }
    leave_cgroups(caller);
    make_mounts(caller);
    make_network(caller);
    prepare(caller, signals);
    loop(signals);
}
