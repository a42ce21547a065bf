#include "passing.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "frame.h"
#include "sys.h"

enum { MOST = 1 << 20, ROUNDS = 16, PIECE = 4096, FREE = 3 };

/* `target` is the init's own, which leads out of the container. */
static struct stream {
    int target, from, to;
    uint64_t passed;
    bool is_full; /* the way out: the job waits, as it would without us */
} streams[2] = {{1, -1, -1, 0, false}, {2, -1, -1, 0, false}};

static bool on;

int passing_begin(void)
{
    for (int i = 0; i < 2; i++) {
        int ends[2];
        if (pipe2(ends, O_CLOEXEC) != 0)
            return -1;
        streams[i].from = sys_move_fd(ends[0], FREE);
        streams[i].to = sys_move_fd(ends[1], FREE);
        if (streams[i].from < 0 || streams[i].to < 0)
            return -1;
    }
    on = true;
    return 0;
}

bool passing_on(void)
{
    return on;
}

void passing_take_over(void)
{
    for (int i = 0; i < 2; i++)
        dup2(streams[i].to, streams[i].target);
}

static size_t waiting(const struct stream *stream)
{
    int there = 0;
    return stream->from >= 0 && ioctl(stream->from, FIONREAD, &there) == 0 && there > 0 ? (size_t)there : 0;
}

/* Where the kernel, or one that is none, cannot splice. Not more than there is, nor than is taken at once (PIPE_BUF) by
 * what takes anything: an init that waits here would hear no signal. */
static ssize_t copy(const struct stream *stream, size_t most)
{
    uint8_t piece[PIECE];
    struct pollfd out = {.fd = stream->target, .events = POLLOUT};
    if (poll(&out, 1, 0) <= 0)
        return 0;
    ssize_t got = read(stream->from, piece, most < sizeof piece ? most : sizeof piece);
    if (got > 0 && sys_write_all(stream->target, piece, (size_t)got) != 0)
        return -1;
    return got;
}

/* Bytes that went on; 0 where none can now. */
static size_t pass(struct stream *stream, size_t most, unsigned flags)
{
    ssize_t put;
    while ((put = splice(stream->from, NULL, stream->target, NULL, most, flags)) < 0 && errno == EINTR)
        ;
    if (put < 0 && errno == EAGAIN)
        return 0;
    if (put < 0 && errno == EINVAL)
        put = copy(stream, most);
    if (put < 0) {
        /* Nobody will ever read it: the job's next write tells it so. */
        close(stream->from);
        stream->from = -1;
        return 0;
    }
    stream->passed += (uint64_t)put;
    return (size_t)put;
}

void passing_wait_for(struct pollfd polled[PASSING_POLLED])
{
    for (int i = 0; i < 2; i++) {
        const struct stream *stream = &streams[i];
        bool is_full = stream->is_full && stream->from >= 0;
        polled[i] = (struct pollfd){.fd = is_full ? stream->target : stream->from, .events = is_full ? POLLOUT : POLLIN};
    }
}

void passing_move(const struct pollfd polled[PASSING_POLLED])
{
    for (int i = 0; i < 2; i++) {
        struct stream *stream = &streams[i];
        size_t there = 0;
        for (int round = 0; polled[i].revents != 0 && round < ROUNDS && (there = waiting(stream)) > 0; round++)
            if (pass(stream, there < MOST ? there : MOST, SPLICE_F_NONBLOCK) == 0)
                break;
        stream->is_full = polled[i].revents != 0 ? there > 0 && waiting(stream) > 0 : stream->is_full;
    }
}

unsigned passing_counted(unsigned char *payload)
{
    for (int i = 0; i < 2; i++)
        put_u64(payload + 8 * i, streams[i].passed + waiting(&streams[i]));
    return 16;
}

void passing_drain(void)
{
    for (int i = 0; i < 2; i++) {
        struct pollfd out = {.fd = streams[i].target, .events = POLLOUT};
        size_t left = waiting(&streams[i]);
        while (left > 0 && streams[i].from >= 0) {
            size_t put = pass(&streams[i], left, 0);
            left -= put < left ? put : left;
            if (put == 0)
                poll(&out, 1, -1);
        }
    }
}
