#include "lines.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "frame.h"
#include "sys.h"

/* A container runtime holds a line back until its newline comes, mixes both streams, and may refuse what is no text:
 * each piece is a line of its own, numbered, in base64. One line is less than the 16 KiB at which a runtime cuts. */
enum { PIECE = 12000, HEADER = 64, LINE = HEADER + (PIECE + 2) / 3 * 4 + 1, WAITING = 2 * LINE, DRAINED = 1 << 20 };

static struct stream {
    char kind;
    int pipe[2];
    uint64_t given;
} streams[2] = {{'o', {-1, -1}, 0}, {'e', {-1, -1}, 0}};

static bool on, by_terminal;
static char waiting[WAITING];
static size_t have, sent;

/* What the end of the log says again: a job can write over the file, and a node throws away how a log began. */
static struct again {
    uint8_t type, frame[FRAME_HEADER + 64];
    size_t length;
} agains[] = {
    {.type = FRAME_INIT_STARTED}, {.type = FRAME_INIT_DEADLINE}, {.type = FRAME_INIT_OUTSIDE}, {.type = FRAME_INIT_USAGE}};
enum { AGAINS = sizeof agains / sizeof *agains };

static size_t base64(char *at, const uint8_t *data, size_t length)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    char *begin = at;
    for (size_t i = 0; i < length; i += 3) {
        size_t left = length - i;
        uint32_t word = (uint32_t)data[i] << 16;
        word |= left > 1 ? (uint32_t)data[i + 1] << 8 : 0;
        word |= left > 2 ? data[i + 2] : 0;
        *at++ = digits[word >> 18];
        *at++ = digits[word >> 12 & 63];
        *at++ = left > 1 ? digits[word >> 6 & 63] : '=';
        *at++ = left > 2 ? digits[word & 63] : '=';
    }
    return (size_t)(at - begin);
}

static size_t line(char *at, char kind, uint64_t before, const uint8_t *data, size_t length)
{
    size_t size = (size_t)snprintf(at, HEADER, "%c %llu %llu ", kind, (unsigned long long)before,
                                   (unsigned long long)sys_realtime());
    size += base64(at + size, data, length);
    at[size++] = '\n';
    return size;
}

static void push(void)
{
    while (sent < have) {
        ssize_t put = write(1, waiting + sent, have - sent);
        if (put < 0 && errno == EINTR)
            continue;
        if (put < 0 && errno == EAGAIN)
            return;
        if (put < 0)
            break; /* nobody will ever read it */
        sent += (size_t)put;
    }
    have = sent = 0;
}

void lines_flush(void)
{
    while (push(), have > 0) {
        struct pollfd out = {.fd = 1, .events = POLLOUT};
        poll(&out, 1, -1);
    }
}

int lines_begin(bool has_terminal)
{
    int flags = fcntl(1, F_GETFL);
    for (int i = 0; i < 2; i++)
        if (pipe2(streams[i].pipe, O_CLOEXEC) != 0 || fcntl(streams[i].pipe[0], F_SETFL, O_NONBLOCK) != 0)
            return -1;
    if (flags < 0 || fcntl(1, F_SETFL, flags | O_NONBLOCK) != 0)
        return -1;
    on = true;
    by_terminal = has_terminal;
    return 0;
}

bool lines_on(void)
{
    return on;
}

int lines_inlet(void)
{
    return streams[0].pipe[1];
}

void lines_take_over(void)
{
    if (by_terminal)
        return;
    dup2(streams[0].pipe[1], 1);
    dup2(streams[1].pipe[1], 2);
}

void lines_wait_for(struct pollfd polled[LINES_POLLED])
{
    for (int i = 0; i < 2; i++)
        polled[i] = (struct pollfd){.fd = have == 0 ? streams[i].pipe[0] : -1, .events = POLLIN};
    polled[2] = (struct pollfd){.fd = have > 0 ? 1 : -1, .events = POLLOUT};
}

/* Bytes that it took. */
static size_t take(struct stream *stream)
{
    static uint8_t piece[PIECE];
    ssize_t got = read(stream->pipe[0], piece, sizeof piece);
    if (got <= 0)
        return 0;
    have += line(waiting + have, stream->kind, stream->given, piece, (size_t)got);
    stream->given += (uint64_t)got;
    return (size_t)got;
}

void lines_move(const struct pollfd polled[LINES_POLLED])
{
    if (have > 0)
        push();
    for (int i = 0; i < 2; i++)
        if (polled[i].revents != 0 && have == 0 && take(&streams[i]) > 0)
            push();
}

static void put(int file, const uint8_t *frame, size_t length)
{
    char text[HEADER + 2048];
    if (length > 1400)
        length = 1400;
    size_t size = line(text, 'r', 0, frame, length);
    if (file >= 0)
        sys_write_all(file, text, size);
    if (!on)
        return;
    if (have + size > sizeof waiting)
        lines_flush();
    memcpy(waiting + have, text, size);
    have += size;
    push();
}

void lines_report(int file, const uint8_t *frame, size_t length)
{
    for (size_t i = 0; i < AGAINS; i++)
        if (frame[4] == agains[i].type && length <= sizeof agains[i].frame) {
            memcpy(agains[i].frame, frame, length);
            agains[i].length = length;
        }
    put(file, frame, length);
}

void lines_drain(void)
{
    for (int i = 0; i < 2; i++) {
        size_t got, all = 0;
        /* What the job left running may write for ever. */
        while (lines_flush(), all < DRAINED && (got = take(&streams[i])) > 0)
            all += got;
    }
    for (size_t i = 0; i < AGAINS; i++)
        if (agains[i].length > 0)
            put(-1, agains[i].frame, agains[i].length);
}

unsigned lines_counted(uint8_t *payload)
{
    for (int i = 0; i < 2; i++)
        put_u64(payload + 8 * i, streams[i].given);
    return 16;
}
