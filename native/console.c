#include "console.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "frame.h"
#include "lines.h"
#include "sys.h"
#include "terminal.h"

#define PIECE (16u * 1024u)
#define ROUNDS 16          /* of one turn: signals are to be served, too */
#define FREE 3             /* above the standard streams */
#define MOST_CELLS 65535u  /* of a terminal, each way: struct winsize */
#define LAST_PATIENCE 1000 /* ms for what was killed to let go of the terminal */
#define EVENTS 8

/* Taken from one side and not given to the other yet. */
struct piece {
    uint8_t bytes[PIECE];
    size_t taken, given;
};

static struct piece to_job, from_job;
static int epoll_fd = -1;
static int fed = -1, typed = -1, control = -1; /* what the request gives; what clients write; what they ask for */
static int sink = -1;                          /* the job's pipe, or its terminal's master */
static int out = 1;                            /* where what comes from a terminal goes */
static bool is_terminal, hung_up;
static uint64_t passed; /* of its output */
static bool ending;
static size_t left; /* bytes of clients' that still count once the input ends */

/* Edge by edge: who waits for a job that does not read, and a terminal that nobody holds, must not wake us for ever. */
static int watch(int fd, uint32_t events)
{
    struct epoll_event event = {.events = events | EPOLLET};
    return epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event);
}

/* Where its folder is made for the job alone, it is made here. */
static int open_fifo(const char *folder, const char *name)
{
    char path[256];
    if (snprintf(path, sizeof path, "%s/%s", folder, name) >= (int)sizeof path) {
        errno = ENAMETOOLONG;
        return -1;
    }
    mkfifo(path, 0600);
    /* For writing, too: without that it would be at its end whenever nobody is attached. */
    int fd = sys_move_fd(open(path, O_RDWR | O_NONBLOCK | O_NOFOLLOW | O_CLOEXEC), FREE);
    return fd >= 0 && watch(fd, EPOLLIN) != 0 ? -1 : fd;
}

static int unblock(int fd)
{
    int flags = fcntl(fd, F_GETFL);
    return flags < 0 ? -1 : fcntl(fd, F_SETFL, flags | O_NONBLOCK);
}

static int open_pipe(void)
{
    int ends[2];
    fed = fcntl(0, F_DUPFD_CLOEXEC, FREE);
    if (pipe2(ends, O_CLOEXEC) != 0)
        return -1;
    sink = sys_move_fd(ends[1], FREE);
    if (sink < 0 || dup2(ends[0], 0) < 0)
        return -1;
    if (ends[0] != 0)
        close(ends[0]);
    return unblock(sink) == 0 ? watch(sink, EPOLLOUT) : -1;
}

static int open_terminal(const char *size, int *terminal)
{
    sink = terminal_open(size, terminal);
    is_terminal = true;
    if (lines_on())
        out = lines_inlet();
    if (sink < 0 || unblock(sink) != 0 || unblock(out) != 0 || watch(sink, EPOLLIN | EPOLLOUT) != 0)
        return -1;
    /* A regular file is always ready, and cannot be watched. */
    return watch(out, EPOLLOUT) == 0 || errno == EPERM ? 0 : -1;
}

int console_open(const char *folder, const char *size, int *terminal)
{
    epoll_fd = sys_move_fd(epoll_create1(EPOLL_CLOEXEC), FREE);
    if (epoll_fd < 0 || (typed = open_fifo(folder, "stdin")) < 0 || (control = open_fifo(folder, "control")) < 0)
        return -1;
    if ((size != NULL ? open_terminal(size, terminal) : open_pipe()) != 0)
        return -1;
    return epoll_fd;
}

static void shut(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

/* Clients first: who sees the job at its end may not find the input open. A terminal itself stays, or its job's session
 * would end by SIGHUP. */
static void close_input(void)
{
    shut(&typed);
    shut(&fed);
    if (!is_terminal)
        shut(&sink);
    to_job.taken = to_job.given = 0;
}

/* What the request gives, then what clients write. */
static bool take_input(void)
{
    ssize_t got = 0;
    to_job.given = to_job.taken = 0;
    if (fed >= 0) {
        got = read(fed, to_job.bytes, PIECE);
        if (got < 0 && (errno == EINTR || errno == EAGAIN))
            return false;
        if (got <= 0)
            shut(&fed);
    }
    if (got <= 0 && typed >= 0 && !(ending && left == 0)) {
        got = read(typed, to_job.bytes, ending && left < PIECE ? left : PIECE);
        if (got > 0 && ending)
            left -= (size_t)got;
    }
    if (got > 0) {
        to_job.taken = (size_t)got;
        return true;
    }
    if (ending)
        close_input();
    return false;
}

/* True: there is more. */
static bool pass_input(void)
{
    for (int round = 0; round < ROUNDS; round++) {
        if (sink < 0 || (to_job.given == to_job.taken && !take_input()))
            return false;
        ssize_t put = write(sink, to_job.bytes + to_job.given, to_job.taken - to_job.given);
        if (put < 0 && errno == EAGAIN)
            return false;
        if (put < 0 && errno != EINTR) {
            close_input(); /* nobody reads it any more: clients are told by their FIFO */
            return false;
        }
        to_job.given += put > 0 ? (size_t)put : 0;
    }
    return true;
}

static bool pass_output(void)
{
    for (int round = 0; round < ROUNDS && is_terminal; round++) {
        if (from_job.given == from_job.taken) {
            ssize_t got = read(sink, from_job.bytes, PIECE);
            hung_up = got == 0 || (got < 0 && errno == EIO);
            if (got <= 0)
                return got < 0 && errno == EINTR;
            from_job.taken = (size_t)got;
            from_job.given = 0;
        }
        ssize_t put = write(out, from_job.bytes + from_job.given, from_job.taken - from_job.given);
        if (put < 0 && errno == EAGAIN)
            return false;
        if (put < 0 && errno != EINTR)
            from_job.given = from_job.taken; /* nobody wants it: the job must not wait for that */
        from_job.given += put > 0 ? (size_t)put : 0;
        passed += put > 0 ? (uint64_t)put : 0;
    }
    return is_terminal;
}

static void serve(const struct frame *frame)
{
    if (frame->type == FRAME_CLOSE_INPUT && !is_terminal && !ending) {
        int there = 0;
        ending = true; /* who goes on writing must not keep the input from its end */
        left = typed >= 0 && ioctl(typed, FIONREAD, &there) == 0 && there > 0 ? (size_t)there : 0;
    } else if (frame->type == FRAME_RESIZE && is_terminal) {
        uint32_t columns = get_u32(frame->payload), rows = get_u32(frame->payload + 4);
        struct winsize window = {.ws_col = (unsigned short)columns, .ws_row = (unsigned short)rows};
        if (columns >= 1 && columns <= MOST_CELLS && rows >= 1 && rows <= MOST_CELLS)
            ioctl(sink, TIOCSWINSZ, &window);
    }
}

/* A job may write into it as well, whatever it likes: it concerns nobody but itself. */
static bool hear_control(void)
{
    static uint8_t bytes[16 * (FRAME_HEADER + 8)];
    static size_t have;
    struct frame frame;
    for (int round = 0; round < ROUNDS; round++) {
        long size;
        ssize_t got = read(control, bytes + have, sizeof bytes - have);
        if (got <= 0)
            return false;
        have += (size_t)got;
        while ((size = frame_parse(bytes, have, FROM_CLIENT, &frame)) > 0) {
            serve(&frame);
            have -= (size_t)size;
            memmove(bytes, bytes + size, have);
        }
        if (size < 0 || have == sizeof bytes)
            have = 0;
    }
    return true;
}

bool console_ready(void)
{
    struct epoll_event events[EVENTS];
    while (epoll_wait(epoll_fd, events, EVENTS, 0) == EVENTS)
        ;
    bool heard = hear_control(), put = pass_input(), got = pass_output();
    return heard || put || got;
}

void console_finish(void)
{
    if (!is_terminal)
        return;
    /* They would die with us; until then one that writes and writes would keep us. */
    if (getpid() == 1)
        kill(-1, SIGKILL);
    for (;;) {
        struct pollfd waited = {.fd = sink, .events = POLLIN};
        while (pass_output())
            ;
        bool is_full = from_job.given < from_job.taken;
        if (!is_full && hung_up)
            return;
        if (is_full && lines_on()) {
            lines_drain(); /* it is read by ourselves */
            continue;
        }
        if (is_full)
            waited = (struct pollfd){.fd = out, .events = POLLOUT};
        /* A job without a terminal would wait itself for whoever takes its output. */
        if (poll(&waited, 1, is_full ? -1 : LAST_PATIENCE) == 0)
            return;
    }
}

unsigned console_counted(unsigned char *payload)
{
    put_u64(payload, passed);
    put_u64(payload + 8, 0);
    return 16;
}
