#include "streams.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <unistd.h>

#include "complain.h"
#include "events.h"
#include "log.h"

#define BUFFER (256u * 1024u)
#define KEEP (16u * 1024u) /* resident for good: small output does not pay for giving pages back */
#define BIG_PIPE (256 * 1024)
#define TERMINAL 2
#define STREAMS 3
#define TURN 16            /* reads of a terminal, some 4 KiB each, before others are served */
#define LAST_ROUNDS 64     /* of a stream that somebody holds open after the end: 16 MiB */

/* Page by page: memory is used only as far as data came. */
static _Alignas(4096) uint8_t buffer[BUFFER];
static size_t dirty;
static int epoll_fd = -1, fds[STREAMS] = {-1, -1, -1};
static bool grown[2];
static bool hung_up; /* nobody holds the terminal; somebody may open it again */

int streams_open(int epoll, const struct idmap *idmap, int out[2])
{
    epoll_fd = epoll;
    for (int i = 0; i < 2; i++) {
        int ends[2];
        if (pipe2(ends, O_CLOEXEC) != 0)
            return -1;
        fds[i] = ends[0];
        out[i] = ends[1];
        /* A job that opens /dev/stdout once more must be its owner. */
        if (idmap->count > 0 && fchown(ends[1], idmap->first, idmap->first) != 0)
            return -1;
        struct epoll_event event = {.events = EPOLLIN, .data.u64 = (uint64_t)(EVENT_STDOUT + i)};
        if (fcntl(ends[0], F_SETFL, O_NONBLOCK) != 0 || epoll_ctl(epoll_fd, EPOLL_CTL_ADD, ends[0], &event) != 0)
            return -1;
    }
    return 0;
}

int streams_terminal(int master)
{
    /* Edge by edge: one that nobody holds any more would wake us for ever. It is not closed then, which would end the
     * job's session by SIGHUP: a job may well close its streams and go on. */
    struct epoll_event event = {.events = EPOLLIN | EPOLLET, .data.u64 = EVENT_TERMINAL};
    int flags = fcntl(master, F_GETFL);
    if (flags < 0 || fcntl(master, F_SETFL, flags | O_NONBLOCK) != 0 ||
        epoll_ctl(epoll_fd, EPOLL_CTL_ADD, master, &event) != 0)
        return -1;
    fds[TERMINAL] = master;
    return 0;
}

/* A pipe grows only once its job fills it: an unprivileged user's pipes share 16,384 pages (pipe(7),
 * pipe-user-pages-soft), beyond which every new pipe gets two. */
static void grow(int index)
{
    if (!grown[index])
        fcntl(fds[index], F_SETPIPE_SZ, BIG_PIPE);
    grown[index] = true;
}

static ssize_t take(int index)
{
    size_t chunk = log_chunk();
    ssize_t got = read(fds[index], buffer, chunk < BUFFER ? chunk : BUFFER);
    if (got > 0) {
        if ((size_t)got > dirty)
            dirty = (size_t)got;
        if (got >= 65536 && index != TERMINAL)
            grow(index);
        log_write(index == 1 ? LOG_STDERR : LOG_STDOUT, buffer, (size_t)got);
        hung_up &= index != TERMINAL;
    } else if (index == TERMINAL && (got == 0 || errno == EIO)) {
        hung_up = true; /* how a terminal ends once nobody holds it */
    } else if (got == 0 || (errno != EAGAIN && errno != EINTR)) {
        if (got < 0)
            complain("reading output: %m");
        close(fds[index]);
        fds[index] = -1;
    }
    return got;
}

static void terminal_ready(void)
{
    struct epoll_event again = {.events = EPOLLIN | EPOLLET, .data.u64 = EVENT_TERMINAL};
    for (int round = 0; round < TURN; round++)
        if (fds[TERMINAL] < 0 || take(TERMINAL) <= 0)
            return;
    epoll_ctl(epoll_fd, EPOLL_CTL_MOD, fds[TERMINAL], &again);
}

void stream_ready(int index)
{
    if (index == TERMINAL)
        terminal_ready();
    else if (fds[index] >= 0)
        take(index);
}

bool streams_closed(void)
{
    return fds[0] < 0 && fds[1] < 0 && (fds[TERMINAL] < 0 || hung_up);
}

void streams_finish(void)
{
    for (int i = 0; i < STREAMS; i++) {
        for (int round = 0; round < LAST_ROUNDS && fds[i] >= 0 && take(i) > 0; round++)
            ;
        if (fds[i] >= 0)
            close(fds[i]);
        fds[i] = -1;
    }
}

bool streams_buffer_dirty(void)
{
    return dirty > KEEP;
}

void streams_buffer_release(void)
{
    madvise(buffer + KEEP, BUFFER - KEEP, MADV_DONTNEED);
    dirty = 0;
}
