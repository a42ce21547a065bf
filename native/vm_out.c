/* What the guest is to hear, as long as it has not taken it. */
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>

#include "frame.h"
#include "vm.h"

#define WHOLE (FRAME_HEADER + FRAME_DATA_MAX)
#define SPARE 1024u /* for what is no data */

static uint8_t out[2 * WHOLE];
static size_t have;

static size_t room(void)
{
    return sizeof out - have;
}

bool vm_has_room(void)
{
    return room() >= WHOLE + SPARE;
}

void vm_give(uint16_t channel, uint8_t type, const uint8_t *payload, size_t length)
{
    have += frame_put(out + have, room(), channel, type, payload, length);
}

bool vm_out_waits(void)
{
    return have > 0;
}

void vm_out_flush(int channel)
{
    ssize_t put = send(channel, out, have, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (put <= 0)
        return; /* a monitor that has gone shows as its end */
    have -= (size_t)put;
    memmove(out, out + put, have);
}
