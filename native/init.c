/* `dms-init [-r REPORT [-o] | -l REPORT | -c SOCKET | -e] [-w [-j FD]] [-t SIZE] [-s FD] [-p FD FOLDER] [-i INPUT]
 * [-a FOLDER] [-h ROOM] [-u HELD] [-d MS:GRACE]
 * -- ARGV...`: pid 1 of a job, or the first process of a session in it. docs/protocol.md, section 3. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "calling.h"
#include "console.h"
#include "deadline.h"
#include "descendants.h"
#include "errands.h"
#include "frame.h"
#include "handed.h"
#include "lines.h"
#include "options.h"
#include "output.h"
#include "reportfile.h"
#include "scripts.h"
#include "search.h"
#include "seccomp.h"
#include "sending.h"
#include "standing.h"
#include "sys.h"
#include "terminal.h"

enum { REPORT = 3, NOT_EXECUTABLE = 126, NOT_FOUND = 127, HUNG_UP = 137 };

static int report = REPORT, terminal = -1;
static pid_t job;         /* or the provision script that runs now */
static bool in_script, halted, running;
static bool in_file; /* the report is a file, which nobody answers in */
static bool stays;   /* after the job, for what that left, until its client leaves: there is no shim to kill it */
static bool over;
static int code; /* our own, once the job is over */
static char **job_argv;

static void say(uint8_t type, const uint8_t *payload, size_t length)
{
    uint8_t bytes[FRAME_HEADER + 4 + FRAME_TEXT_MAX];
    if (report < 0)
        return;
    frame_header(bytes, type, (uint32_t)length);
    if (length > 0)
        memcpy(bytes + FRAME_HEADER, payload, length);
    if (lines_on()) {
        lines_report(report, bytes, FRAME_HEADER + length);
        return;
    }
    if (in_file)
        reportfile_append(report, bytes, FRAME_HEADER + length);
    else
        send(report, bytes, FRAME_HEADER + length, MSG_NOSIGNAL); /* a hang-up shows in poll */
}

static void drop_terminal(void)
{
    if (terminal >= 0)
        close(terminal);
    terminal = -1;
}

/* What was written to a terminal that we hold is passed on before we say what became of the job. */
static void finish_output(void)
{
    uint8_t wrote[16];
    drop_terminal();
    unsigned length = output_finish(wrote);
    if (length > 0)
        say(FRAME_INIT_WROTE, wrote, length);
}

static _Noreturn void leave(int status)
{
    output_flush();
    _exit(status);
}

static _Noreturn void fail(int error, const char *what)
{
    uint8_t payload[4 + FRAME_TEXT_MAX];
    size_t length = strlen(what);
    finish_output();
    if (length > FRAME_TEXT_MAX)
        length = FRAME_TEXT_MAX;
    put_u32(payload, (uint32_t)error);
    memcpy(payload + 4, what, length);
    say(FRAME_INIT_FAILED, payload, 4 + length);
    if (report < 0)
        dprintf(2, "dms-init: %s: %s\n", what, strerror(error));
    leave(error == ENOENT ? NOT_FOUND : NOT_EXECUTABLE);
}

static void run_job(int result)
{
    struct sigaction defaults = {.sa_handler = SIG_DFL};
    sigset_t none;
    terminal_separate(terminal, in_script);
    output_take_over();
    for (int signum = 1; signum < NSIG; signum++)
        sigaction(signum, &defaults, NULL);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    int error = in_script ? scripts_execute() : search_and_execute(job_argv);
    sys_write_all(result, &error, sizeof error);
    _exit(NOT_FOUND);
}

static _Noreturn void cannot_execute(int error)
{
    char what[160];
    if (!in_script)
        fail(error, job_argv[0]);
    snprintf(what, sizeof what, "provision script %s", scripts_name());
    fail(error, what);
}

static void start_job(void)
{
    int result[2], error = 0;
    if (pipe2(result, O_CLOEXEC) != 0)
        fail(errno, "cannot make a pipe");
    job = fork();
    if (job == 0)
        run_job(result[1]);
    if (job < 0)
        fail(errno, "cannot fork");
    close(result[1]);
    if (!in_script) {
        drop_terminal(); /* or it would never hang up */
        sys_hush(0, 0); /* or who writes would not learn that nobody reads */
    }
    ssize_t got;
    while ((got = read(result[0], &error, sizeof error)) < 0 && errno == EINTR)
        ;
    close(result[0]);
    if (got == sizeof error)
        cannot_execute(error);
    if (running)
        return;
    running = true; /* with the first script, if there are any */
    if (!deadline_begin())
        fail(errno, "cannot keep the timeout");
    uint8_t stamp[8];
    put_u64(stamp, sys_realtime());
    say(FRAME_INIT_STARTED, stamp, sizeof stamp);
}

/* The next script, or the job itself once there is none. */
static void start_next(void)
{
    if (in_script && scripts_next() == NULL) {
        scripts_forget();
        in_script = false;
        if (in_file)
            say(FRAME_INIT_SCRIPTED, NULL, 0);
    }
    start_job();
}

/* With the time of the end, by the clock of what came before. */
static void say_usage(void)
{
    uint8_t used[64];
    if (in_file)
        say(FRAME_INIT_USAGE, used, reportfile_usage(used));
}

/* The job itself does not run after a script that failed, nor after one that was stopped. */
static void script_ended(int status)
{
    uint8_t payload[4 + FRAME_TEXT_MAX];
    size_t length = strlen(scripts_name());
    if (status == 0 && !halted) {
        start_next();
        return;
    }
    say_usage();
    finish_output();
    put_u32(payload, (uint32_t)status);
    memcpy(payload + 4, scripts_name(), length);
    say(FRAME_INIT_SCRIPT, payload, 4 + length);
    leave(WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status));
}

static _Noreturn void hung_up(void)
{
    /* Only in a pid namespace of our own does -1 mean the job and nothing else. */
    if (getpid() == 1)
        kill(-1, SIGKILL);
    if (job > 0) {
        kill(-job, SIGKILL);
        kill(job, SIGKILL);
    }
    if (getpid() != 1)
        descendants_kill();
    _exit(HUNG_UP);
}

static void await_signal(const sigset_t *all)
{
    int ending = sending_await(all);
    if (ending < 0)
        fail(ETIMEDOUT, "nobody let the job go");
    if (ending > 0)
        leave(128 + ending);
}

/* The terminal is one of the job's own, so that its name means something inside; who asked for it gets its master. */
static void open_terminal(const char *size)
{
    uint8_t frame[FRAME_HEADER];
    int master = terminal_open(size, &terminal);
    if (master < 0)
        fail(errno, "cannot make a terminal");
    frame_header(frame, FRAME_INIT_TERMINAL, 0);
    if (terminal_hand_over(report, frame, sizeof frame, master) != 0)
        fail(errno, "cannot hand over the terminal");
    close(master);
}

static void hear(void)
{
    static uint8_t bytes[4 * (FRAME_HEADER + 4)];
    static size_t have;
    struct frame frame;
    long size;
    ssize_t got = recv(report, bytes + have, sizeof bytes - have, MSG_DONTWAIT);
    if (got < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (got <= 0)
        hung_up();
    have += (size_t)got;
    while ((size = frame_parse(bytes, have, TO_INIT, &frame)) > 0) {
        halted |= frame.type == FRAME_INIT_HALT;
        uint32_t signum = frame.type == FRAME_INIT_SIGNAL ? get_u32(frame.payload) : 0;
        if (signum >= 1 && signum <= 64 && job > 0)
            kill(job, (int)signum);
        if (frame.type == FRAME_INIT_LEAVE && over)
            _exit(code);
        have -= (size_t)size;
        memmove(bytes, bytes + size, have);
    }
    if (size < 0)
        hung_up();
}

static void reap(void)
{
    int status;
    pid_t pid;
    while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
        if (pid != job)
            continue;
        if (in_script) {
            script_ended(status);
            continue;
        }
        uint8_t raw[4];
        say_usage();
        finish_output();
        put_u32(raw, (uint32_t)status);
        say(FRAME_INIT_EXITED, raw, sizeof raw);
        code = WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
        if (!stays)
            leave(code);
        over = true;
        job = 0;
        sys_hush(0, 2); /* or they would not be at their end for who reads them */
    }
    if (over && pid < 0)
        _exit(code); /* it left nothing */
}

/* Said at once: what comes of it may be the end of us all. */
static void time_is_up(int signum)
{
    if (signum == 0 || job <= 0)
        return;
    halted = true;
    if (signum == SIGKILL) {
        kill(getpid() == 1 ? -1 : job, SIGKILL);
        return;
    }
    say(FRAME_INIT_DEADLINE, NULL, 0);
    kill(job, signum);
}

/* Not all there are: a job may send them as fast as they are read. */
static void pass_on(int signals)
{
    struct signalfd_siginfo info;
    for (int most = 64; most > 0 && read(signals, &info, sizeof info) == sizeof info; most--) {
        if (in_file && deadline_asked(&info))
            continue;
        if (lines_on() && sending_is_news(&info))
            say(FRAME_INIT_OUTSIDE, NULL, 0);
        /* Our own is SIGPIPE, by a write of the console's. */
        if (info.ssi_signo != SIGCHLD && info.ssi_pid != (uint32_t)getpid() && job > 0)
            kill(job, (int)info.ssi_signo);
        /* Who can only send signals cannot say that a stop is in hand. */
        halted |= in_file && in_script && sending_ends_by_default((int)info.ssi_signo);
    }
    reap();
}

int main(int argc, char **argv)
{
    struct options options;
    const char *problem;
    int scripts = -1, console = -1, input, status = errand(argc, argv);
    sigset_t all;
    if (status >= 0)
        return status;
    bool understood = options_parse(argc, argv, &options);
    stays = options.stays;
    if (options.report != NULL) {
        report = reportfile_open(options.report);
        in_file = true;
        if (report < 0)
            fail(errno, "cannot open the report");
        if (output_begin(options.lines, options.counts, options.size != NULL) != 0)
            fail(errno, "cannot make pipes");
    } else if (options.socket != NULL) {
        report = calling_connect(options.socket);
        if (report < 0)
            fail(errno, "cannot reach who asked for the command");
    } else {
        report = reportfile_socket(REPORT);
    }
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, NULL); /* first: who hears of us may send one, and pid 1 loses it else */
    /* Before any of the job's code runs, so that the first sender the shim sees is us. */
    say(FRAME_INIT_BORN, NULL, 0);
    if (in_file && reportfile_halted(report))
        hung_up();
    if (!understood || (options.limit != NULL && !deadline_set(options.limit)))
        fail(EINVAL, "wrong arguments (docs/protocol.md, section 3)");
    if (options.held != NULL && standing_hold(options.held) != 0)
        fail(errno, "cannot hold what says that the job lives");
    if (options.scripts != NULL) {
        bool is_path = *options.scripts == '/';
        scripts = is_path ? open(options.scripts, O_RDONLY | O_CLOEXEC) : atoi(options.scripts);
        if (scripts < 0)
            fail(errno, "cannot open the provision scripts");
    }
    if (options.input != NULL) {
        input = open(options.input, O_RDONLY | O_CLOEXEC);
        if (input < 0 || dup2(input, 0) < 0)
            fail(errno, "cannot open the input");
    }
    int signals = signalfd(-1, &all, SFD_NONBLOCK | SFD_CLOEXEC);
    if (signals < 0)
        fail(errno, "cannot wait for signals");
    /* A job of the same user must not reach into us for the report socket (pidfd_getfd, ptrace). */
    prctl(PR_SET_DUMPABLE, 0);
    if (getpid() != 1) {
        /* Outside a pid namespace: orphans come to us, and our parent's death must not take us before we took the job
         * along, which the report socket's hang-up makes us do. */
        prctl(PR_SET_CHILD_SUBREAPER, 1);
        if (report >= 0)
            prctl(PR_SET_PDEATHSIG, 0);
    }
    if (options.waits && in_file)
        await_signal(&all);
    else if (options.waits && !calling_await_go(report, options.group))
        hung_up();
    if (options.room != NULL && (problem = handed_take(options.room, &scripts, &options.folder)) != NULL)
        fail(errno, problem);
    if (options.attached != NULL && (console = console_open(options.attached, options.size, &terminal)) < 0)
        fail(errno, "cannot open the job's input");
    if (options.attached == NULL && options.size != NULL)
        open_terminal(options.size);
    if (options.filter >= 0 && seccomp_install(options.filter) != 0)
        fail(errno, "cannot install the seccomp filter");
    job_argv = options.argv;
    in_script = scripts >= 0;
    if (in_script && (problem = scripts_write(scripts, options.folder)) != NULL)
        fail(errno, problem);
    start_next();
    struct pollfd waited[4 + OUTPUT_POLLED] = {{.fd = signals, .events = POLLIN},
                                               {.fd = in_file ? -1 : report, .events = POLLIN},
                                               {.fd = console, .events = POLLIN},
                                               {.fd = -1, .events = POLLIN}};
    for (bool more = false;;) {
        waited[3].fd = deadline_timer();
        output_wait_for(waited + 4);
        if (poll(waited, 4 + OUTPUT_POLLED, more ? 0 : -1) < 0)
            continue;
        if (waited[3].revents != 0)
            time_is_up(deadline_due());
        if (waited[0].revents != 0)
            pass_on(signals);
        if (waited[1].revents != 0)
            hear();
        if (more || waited[2].revents != 0)
            more = console_ready();
        output_move(waited + 4);
    }
}
