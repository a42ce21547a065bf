#include "input.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "clients.h"
#include "complain.h"
#include "events.h"

#define SOURCES CLIENT_SLOTS
#define FED 0              /* the source that the request names; clients' come after it */
#define NOBODY (-1)
#define PIECE (16u * 1024u)
#define ROUNDS 16          /* of one turn: the loop has others to serve */
#define MOST_CELLS 65535u  /* of a terminal, each way: struct winsize */

/* A pipe whose other end is a client's. It is read until all of its writers are gone, so that nothing is lost of what a
 * client wrote before it left. */
struct source {
    bool used, last; /* the job's input ends with it */
    int fd, client;
    size_t left; /* bytes that still count once the input ends */
};

static struct source sources[SOURCES];
static uint8_t piece[PIECE]; /* taken from a source and not given to the job yet */
static size_t taken, given;
static int epoll_fd = -1, sink = -1, turn;
static bool is_terminal, ending;

/* Edge by edge: a source that waits for a job which does not read must not wake us again and again. */
static int watch(int fd, uint32_t events, int operation)
{
    struct epoll_event event = {.events = events | EPOLLET, .data.u64 = EVENT_INPUT};
    return epoll_ctl(epoll_fd, operation, fd, &event);
}

static void drop(struct source *it)
{
    /* By hand: whoever sent the descriptor may have kept it, and then a close() would leave it watched. */
    epoll_ctl(epoll_fd, EPOLL_CTL_DEL, it->fd, NULL);
    close(it->fd);
    it->used = false;
}

static void close_input(void)
{
    for (int i = 0; i < SOURCES; i++)
        if (sources[i].used)
            drop(&sources[i]);
    if (sink >= 0)
        close(sink);
    sink = -1;
    taken = given = 0;
}

int input_open(struct config *config, int epoll)
{
    int ends[2];
    epoll_fd = epoll;
    if (config->input != INPUT_PIPE)
        return 0;
    if (pipe2(ends, O_CLOEXEC) != 0)
        return -1;
    if (config->stdin_fd >= 0)
        sources[FED] = (struct source){.used = true, .fd = config->stdin_fd, .client = NOBODY};
    config->stdin_fd = ends[0];
    sink = ends[1];
    /* A job that opens /dev/stdin once more must be its owner. */
    if (config->idmap.count > 0 && fchown(ends[0], config->idmap.first, config->idmap.first) != 0)
        return -1;
    return fcntl(sink, F_SETFL, O_NONBLOCK) == 0 ? watch(sink, EPOLLOUT, EPOLL_CTL_ADD) : -1;
}

void input_terminal(int master)
{
    /* A descriptor of its own: the output's is watched for another purpose. */
    sink = fcntl(master, F_DUPFD_CLOEXEC, 10);
    is_terminal = sink >= 0 && watch(sink, EPOLLOUT, EPOLL_CTL_ADD) == 0;
    if (!is_terminal)
        complain("the terminal cannot be written to: %m");
}

/* What was written until now still counts; who goes on writing must not keep the input from its end. */
static void begin_ending(void)
{
    for (int i = FED + 1; i < SOURCES && !ending; i++) {
        int there = 0;
        if (sources[i].used && ioctl(sources[i].fd, FIONREAD, &there) == 0 && there > 0)
            sources[i].left = (size_t)there;
    }
    ending = true;
}

static bool take(struct source *it)
{
    bool counted = ending && it != &sources[FED];
    size_t most = counted && it->left < sizeof piece ? it->left : sizeof piece;
    ssize_t got = read(it->fd, piece, most);
    if (got > 0) {
        taken = (size_t)got;
        given = 0;
        it->left -= counted ? taken : 0;
        return true;
    }
    if (got < 0 && (errno == EAGAIN || errno == EINTR))
        return false;
    if (got < 0)
        complain("reading input: %m");
    bool last = it->last;
    drop(it);
    if (last)
        begin_ending();
    return false;
}

/* Something from whoever has something, in turn; clients wait for what the request gives. */
static bool take_next(void)
{
    if (sources[FED].used) {
        if (take(&sources[FED]))
            return true;
        if (sources[FED].used)
            return false;
    }
    for (int i = 0; i < SOURCES; i++) {
        turn = (turn + 1) % SOURCES;
        if (sources[turn].used && take(&sources[turn]))
            return true;
    }
    return false;
}

void input_ready(void)
{
    for (int round = 0; round < ROUNDS && sink >= 0; round++) {
        if (given == taken && !take_next()) {
            if (ending)
                close_input();
            return;
        }
        ssize_t put = write(sink, piece + given, taken - given);
        if (put < 0 && errno == EAGAIN)
            return;
        if (put < 0 && errno != EINTR) {
            close_input(); /* nobody reads it any more: clients are told by their pipes */
            return;
        }
        given += put > 0 ? (size_t)put : 0;
    }
    if (sink >= 0)
        watch(sink, EPOLLOUT, EPOLL_CTL_MOD); /* comes again at once where there is room */
}

/* Opened anew, so that whether it blocks is ours alone to say; a client shares what it sent. */
static int reopened(int fd)
{
    char path[40];
    struct stat status;
    if (fstat(fd, &status) != 0 || !S_ISFIFO(status.st_mode) || (fcntl(fd, F_GETFL) & O_ACCMODE) != O_RDONLY) {
        errno = EINVAL;
        return -1;
    }
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    return open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
}

static struct source *of_client(int client)
{
    for (int i = FED + 1; i < SOURCES; i++)
        if (sources[i].used && sources[i].client == client)
            return &sources[i];
    return NULL;
}

/* 0, or -1 with errno. */
static int add_source(int client)
{
    const int *fds;
    int count = client_descriptors(client, &fds);
    if (count == 0 || sink < 0)
        return 0; /* it only looks on, or there is nothing to write to */
    errno = count > 1 ? EINVAL : EBUSY;
    if (count > 1 || of_client(client) != NULL)
        return -1;
    for (int i = FED + 1; i < SOURCES; i++) {
        if (sources[i].used)
            continue;
        int fd = reopened(fds[0]);
        if (fd < 0)
            return -1;
        sources[i] = (struct source){.used = true, .fd = fd, .client = client};
        return watch(fd, EPOLLIN, EPOLL_CTL_ADD);
    }
    errno = EBUSY;
    return -1;
}

static void attach(int client)
{
    uint8_t kind[4];
    if (add_source(client) != 0) {
        client_refuse(client, errno, "cannot take this input");
        return;
    }
    put_u32(kind, sink < 0 ? INPUT_NONE : is_terminal ? INPUT_TERMINAL : INPUT_PIPE);
    client_send(client, FRAME_ATTACHED, kind, sizeof kind);
}

/* After what that client has written, and what the request gives. */
static void end_input(int client)
{
    struct source *it = of_client(client);
    if (is_terminal) {
        client_refuse(client, EINVAL, "a terminal's input does not end");
        return;
    }
    if (it != NULL)
        it->last = true;
    else
        begin_ending();
    client_send(client, FRAME_OK, NULL, 0);
    input_ready();
}

static void resize(int client, uint32_t columns, uint32_t rows)
{
    struct winsize window = {.ws_col = (unsigned short)columns, .ws_row = (unsigned short)rows};
    if (!is_terminal || sink < 0)
        client_refuse(client, ENOTTY, "the job has no terminal");
    else if (columns < 1 || columns > MOST_CELLS || rows < 1 || rows > MOST_CELLS)
        client_refuse(client, EINVAL, "no such size");
    else if (ioctl(sink, TIOCSWINSZ, &window) != 0)
        client_refuse(client, errno, "cannot set the terminal's size");
    else
        client_send(client, FRAME_OK, NULL, 0);
}

void input_serve(int client, const struct frame *frame, bool job_runs)
{
    if (!job_runs)
        client_refuse(client, ESRCH, "the job does not run");
    else if (frame->type == FRAME_ATTACH)
        attach(client);
    else if (frame->type == FRAME_CLOSE_INPUT)
        end_input(client);
    else
        resize(client, get_u32(frame->payload), get_u32(frame->payload + 4));
}

bool input_is_busy(void)
{
    for (int i = 0; i < SOURCES; i++)
        if (sources[i].used)
            return true;
    return given < taken;
}

void input_client_left(int client)
{
    struct source *it = of_client(client);
    if (it != NULL)
        it->client = NOBODY;
}
