#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "frame.h"
#include "guest.h"

#define WHOLE (FRAME_HEADER + FRAME_DATA_MAX)
#define SPARE 8192u /* for what is no data */

static uint8_t out[8 * WHOLE + SPARE];
static size_t first, have;
static int port = -1;

void link_use(int fd)
{
    port = fd;
    first = have = 0; /* what another one was to hear */
}

int link_fd(void)
{
    return port;
}

static size_t room(void)
{
    return sizeof out - have;
}

bool link_has_room(void)
{
    return room() >= WHOLE + SPARE;
}

bool link_is_busy(void)
{
    return have > first;
}

static void tidy(void)
{
    if (first == 0)
        return;
    memmove(out, out + first, have - first);
    have -= first;
    first = 0;
}

void link_flush(void)
{
    while (have > first) {
        ssize_t put = write(port, out + first, have - first);
        if (put < 0 && errno == EINTR)
            continue;
        if (put <= 0)
            break;
        first += (size_t)put;
    }
    tidy();
}

void link_put_on(uint16_t channel, uint8_t type, const uint8_t *payload, size_t length)
{
    have += frame_put(out + have, room(), channel, type, payload, length);
}

void link_put(uint8_t type, const uint8_t *payload, size_t length)
{
    link_put_on(0, type, payload, length);
}

ssize_t link_carry_on(uint16_t channel, uint8_t type, int from, size_t most)
{
    ssize_t got = read(from, out + have + FRAME_HEADER, most < FRAME_DATA_MAX ? most : FRAME_DATA_MAX);
    if (got <= 0)
        return got;
    frame_header_on(out + have, channel, type, (uint32_t)got);
    have += FRAME_HEADER + (size_t)got;
    return got;
}

ssize_t link_carry(uint8_t type, int from)
{
    return link_carry_on(0, type, from, FRAME_DATA_MAX);
}
