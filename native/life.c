/* The life of the job from GO to its last process: every decision that is taken with nobody connected. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "complain.h"
#include "events.h"
#include "input.h"
#include "job.h"
#include "log.h"
#include "network.h"
#include "session.h"
#include "shim.h"
#include "streams.h"
#include "suspend.h"
#include "sys.h"

#define RUNTIME_MS 5000   /* that a runtime has for its own end when the job could not start */
#define STRANGERS 32

/* Without a report the job's pid is known only from the runtime's file, maybe after its death: what was reaped while
 * the start goes on is remembered. */
static struct {
    pid_t pid;
    int status;
} strangers[STRANGERS];
static unsigned stranger_count;

static void close_quietly(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

static int report_open(int *theirs)
{
    int ends[2], on = 1;
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0)
        return -1;
    *theirs = ends[1];
    shim.report = ends[0];
    struct epoll_event event = {.events = EPOLLIN, .data.u64 = EVENT_REPORT};
    if (setsockopt(ends[0], SOL_SOCKET, SO_PASSCRED, &on, sizeof on) != 0 ||
        epoll_ctl(shim.epoll, EPOLL_CTL_ADD, ends[0], &event) != 0)
        return -1;
    return 0;
}

static void spawn(void)
{
    int out[2] = {-1, -1}, theirs = -1, error = 0;
    if (streams_open(shim.epoll, &shim.config.idmap, out) != 0 || input_open(&shim.config, shim.epoll) != 0 ||
        (shim.config.report && report_open(&theirs) != 0))
        error = errno;
    if (error == 0) {
        pid_t pid = job_spawn(&shim.config, out, theirs);
        if (pid < 0)
            error = errno;
        else
            shim.runtime = pid;
    }
    /* Our copies must go, or the streams never end. */
    close_quietly(&out[0]);
    close_quietly(&out[1]);
    close_quietly(&theirs);
    close_quietly(&shim.config.stdin_fd);
    for (size_t i = 0; i < shim.config.pass_count; i++)
        close_quietly(&shim.config.pass[i]);
    if (error != 0)
        life_fail(error, "cannot execute %s", shim.config.argv[0]);
}

void life_go(void)
{
    if (shim.phase != PHASE_CREATED)
        return;
    shim.phase = PHASE_GOING;
    shim.going_at = sys_realtime();
    /* Should we and the caller be killed now, this tells that something may have run. */
    int mark = openat(shim.folder, "going", O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    close_quietly(&mark);
    if (shim.config.start_ms != 0)
        timer_set(TIMER_RUNTIME, shim.config.start_ms);
    spawn();
    if (shim.runtime != 0 && !shim.config.report && shim.config.pidfile == NULL) {
        life_init_known(shim.runtime);
        life_started(sys_realtime());
    }
    life_progress();
}

/* What holds secrets is gone before anybody is told that the job runs, and whether or not a caller still lives. */
static void forget(void)
{
    for (size_t i = 0; i < shim.config.forget_count; i++)
        if (unlinkat(shim.folder, shim.config.forgets[i], 0) != 0 && errno != ENOENT)
            complain("cannot remove %s: %m", shim.config.forgets[i]);
}

void life_release_start(void)
{
    uint64_t stamp = shim.held_start;
    shim.held_start = 0;
    shim.joiner = 0;
    if (stamp != 0)
        life_started(stamp);
}

void life_started(uint64_t stamp)
{
    if (shim.started || shim.failed)
        return;
    if (shim.config.resumed != 0 && !suspend_may_resume()) {
        life_fail(0, "the job's init went away before it let the job go on");
        return;
    }
    if (shim.joiner != 0) {
        shim.held_start = stamp != 0 ? stamp : sys_realtime();
        return;
    }
    uint64_t now = sys_realtime();
    shim.started = true;
    shim.started_at = stamp >= shim.going_at && stamp <= now ? stamp : now;
    if (shim.config.resumed != 0)
        shim.started_at = shim.config.resumed;
    shim.phase = PHASE_RUNNING;
    timer_clear(TIMER_RUNTIME);
    forget();
    if (shim.config.resumed != 0 && !suspend_resumed())
        complain("the job's init went away just before it went on");
    uint8_t payload[8];
    put_u64(payload, shim.started_at);
    clients_broadcast(FRAME_STARTED, payload, sizeof payload);
    if (shim.config.timeout_ms != 0)
        timer_set(TIMER_TIMEOUT, shim.config.timeout_ms);
}

void life_fail(int error, const char *format, ...)
{
    if (shim.started || shim.held_start != 0 || shim.failed)
        return;
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(shim.error, sizeof shim.error, format, arguments);
    va_end(arguments);
    shim.failed = true;
    shim.error_number = error;
    shim.phase = PHASE_ENDING;
    uint8_t payload[4 + FRAME_TEXT_MAX];
    clients_broadcast(FRAME_FAILED, payload, error_payload(payload, error, shim.error));
    if (shim.runtime != 0)
        timer_sooner(TIMER_RUNTIME, RUNTIME_MS);
}

static bool signal_job(uint32_t signum)
{
    if (shim.init == 0 || shim.init_gone)
        return false;
    shim.killed = true;
    if (shim.config.report)
        return report_signal(signum);
    return kill(shim.init, (int)signum) == 0;
}

static void thaw(void)
{
    for (size_t i = 0; i < shim.config.thaw_count; i++) {
        const struct thaw *it = &shim.config.thaw[i];
        if (sys_write_file(it->path, it->text, strlen(it->text)) != 0 && errno != ENOENT)
            complain("cannot thaw by %s: %m", it->path);
    }
}

static void send_stop_signal(void)
{
    if (shim.stop_signal == 0 || shim.init == 0)
        return;
    uint32_t signum = shim.stop_signal;
    shim.stop_signal = 0;
    signal_job(signum);
}

/* The end of patience: the init is asked to kill the job, so that it can report how it ended; soon after it dies
 * itself, and the kernel takes the rest of its pid namespace with it. */
static void escalate(void)
{
    timer_clear(TIMER_GRACE);
    thaw();
    shim.our_kill = shim.killed = true;
    shim.stop_signal = 0;
    if (shim.init != 0 && shim.config.report && report_signal(SIGKILL))
        timer_set(TIMER_KILL, shim.config.patience_ms);
    else
        life_timer(TIMER_KILL);
}

void life_stop(enum stop_cause cause, uint32_t signum, uint64_t grace_ms)
{
    report_ready();
    /* What has ended by itself keeps its own result. */
    if (suspend_stopped(cause) || shim.job_reported || shim.failed || shim.init_gone)
        return;
    if (shim.cause != CAUSE_NONE) {
        if (shim.our_kill)
            return;
        if (signum == SIGKILL || grace_ms == 0)
            escalate();
        else
            timer_sooner(TIMER_GRACE, grace_ms);
        return;
    }
    shim.cause = cause;
    timer_clear(TIMER_TIMEOUT);
    provision_halt();
    if (signum == SIGKILL) {
        escalate();
        return;
    }
    thaw();
    shim.stop_signal = signum;
    send_stop_signal();
    timer_set(TIMER_GRACE, grace_ms);
}

bool life_signal(uint32_t signum)
{
    report_ready();
    return shim.phase == PHASE_RUNNING && !shim.job_reported && signal_job(signum);
}

void life_init_known(pid_t pid)
{
    shim.init = pid;
    shim.init_handle = job_handle(pid);
    send_stop_signal();
    if (shim.our_kill)
        kill(pid, SIGKILL);
}

void life_timer(enum timer timer)
{
    switch (timer) {
    case TIMER_TIMEOUT:
        life_stop(CAUSE_DEADLINE, shim.config.stop_signal, shim.config.grace_ms);
        break;
    case TIMER_GRACE:
        escalate();
        break;
    case TIMER_KILL:
        if (shim.init != 0 && !shim.init_gone)
            kill(shim.init, SIGKILL);
        if (!shim.started && shim.runtime != 0)
            kill(shim.runtime, SIGKILL);
        break;
    case TIMER_RUNTIME:
        /* An image can hold a runtime for ever, e.g. by a FIFO in the place of a file that it reads. */
        if (!shim.started && !shim.failed && (shim.report >= 0 || !shim.config.report))
            life_fail(ETIMEDOUT, "the job did not start");
        if (shim.runtime != 0)
            kill(shim.runtime, SIGKILL);
        if (shim.failed || shim.job_reported || shim.report < 0)
            job_kill_listed();
        break;
    case TIMER_DRAIN:
        end_streams();
        break;
    case TIMER_SESSIONS:
        sessions_tick();
        break;
    case TIMERS:
        break;
    }
}

static void init_ended(int status)
{
    shim.init_gone = true;
    shim.init_status = status;
    if (shim.ended_at == 0)
        shim.ended_at = sys_realtime();
}

static void find_init_by_pidfile(void)
{
    pid_t pid = job_pidfile(shim.folder, shim.config.pidfile);
    if (pid == 0) {
        life_fail(0, "the runtime wrote no pid");
        return;
    }
    for (unsigned i = 0; i < stranger_count && i < STRANGERS; i++)
        if (strangers[i].pid == pid)
            init_ended(strangers[i].status);
    if (!shim.init_gone && !job_is_child(pid)) {
        /* crun's detached mode leaves a second process, the job's parent, for a moment: its end brings us here again. */
        if (!job_has_others(network_pid()))
            life_fail(0, "the runtime's pid file does not name a process of this job");
        return;
    }
    life_init_known(pid);
    life_started(sys_realtime());
}

static void runtime_failed(int status)
{
    if (shim.our_kill)
        life_fail(0, "stopped before it started");
    else if (WIFSIGNALED(status))
        life_fail(0, "the runtime was killed by signal %d", WTERMSIG(status));
    else
        life_fail(0, "runtime exited with %d", WEXITSTATUS(status));
}

/* With the runtime gone, each end of a child may be the one that tells what the job's process is, or that it is gone. */
static void look_for_init(void)
{
    if (shim.phase == PHASE_CREATED || shim.runtime != 0 || shim.failed)
        return;
    if (!shim.started && shim.held_start == 0 && !shim.config.report)
        find_init_by_pidfile();
    else if (!shim.started && shim.report < 0)
        life_fail(0, "the job's init went away before it started the job");
    /* A runtime that stayed in the foreground has reaped the init itself. */
    if (shim.init != 0 && !shim.init_gone && !job_is_child(shim.init) && !job_exists(shim.init_handle))
        init_ended(-1);
}

static void remember(pid_t pid, int status)
{
    unsigned slot = stranger_count++ % STRANGERS;
    strangers[slot].pid = pid;
    strangers[slot].status = status;
}

static void joined(int status)
{
    if (status == 0) {
        life_release_start();
        return;
    }
    shim.joiner = 0;
    shim.held_start = 0;
    complain("cannot leave the caller's control groups");
    if (shim.phase == PHASE_CREATED)
        end_unborn();
    life_fail(0, "cannot leave the caller's control groups");
}

void life_reap(void)
{
    int status;
    pid_t pid;
    while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
        /* What it said before it died comes first, and is all there now: not so before it was reaped. */
        report_ready();
        if (network_reaped(pid, status, shim.job_reported || shim.init_gone || shim.failed))
            continue;
        if (pid == shim.joiner) {
            joined(status);
            look_for_init();
            continue;
        }
        session_reaped(pid, status);
        if (pid == shim.init)
            init_ended(status);
        if (pid == shim.runtime) {
            shim.runtime = 0;
            if (!shim.started && status != 0)
                runtime_failed(status);
        } else if (pid != shim.init && shim.phase == PHASE_GOING) {
            remember(pid, status);
        }
        look_for_init();
    }
    life_progress();
}

void life_progress(void)
{
    if (shim.init_gone && shim.held_start != 0)
        life_release_start();
    if (shim.init_gone && !shim.started && !shim.failed)
        life_fail(0, "the job's init died before it started the job");
    if (!(shim.started || shim.failed) || shim.runtime != 0)
        return;
    if (shim.failed && shim.init != 0 && !shim.init_gone && job_exists(shim.init_handle))
        kill(shim.init, SIGKILL); /* its end comes as SIGCHLD, ours or its parent's */
    else if (shim.failed || shim.init_gone)
        end_settle();
}
