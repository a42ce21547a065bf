#include "frame.h"

#include <string.h>

#include "open.h"

/* Byte by byte, so that neither the host's order nor alignment matters; compilers make one load of it. */
uint32_t get_u32(const uint8_t *at)
{
    return (uint32_t)at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
}

uint64_t get_u64(const uint8_t *at)
{
    return (uint64_t)get_u32(at) | (uint64_t)get_u32(at + 4) << 32;
}

void put_u32(uint8_t *at, uint32_t value)
{
    for (int i = 0; i < 4; i++)
        at[i] = (uint8_t)(value >> (8 * i));
}

void put_u64(uint8_t *at, uint64_t value)
{
    put_u32(at, (uint32_t)value);
    put_u32(at + 4, (uint32_t)(value >> 32));
}

struct rule {
    uint8_t type, sides;
    uint32_t least, most;
};

#define BIT(side) (1u << (side))

/* Payload sizes by type: a length is believed only within these, so that every buffer here can be of fixed size. */
static const struct rule rules[] = {
    {FRAME_GO, BIT(FROM_CALLER), 0, 0},
    {FRAME_STOP, BIT(FROM_CALLER) | BIT(FROM_CLIENT), 16, 16},
    {FRAME_SIGNAL, BIT(FROM_CALLER) | BIT(FROM_CLIENT), 4, 4},
    {FRAME_HELLO, BIT(FROM_CALLER) | BIT(FROM_CLIENT), 4, 4},
    {FRAME_OPEN, BIT(FROM_CLIENT), 4, OPEN_MOST},
    {FRAME_ENTER, BIT(FROM_CLIENT), 4, 4},
    {FRAME_CLOSE, BIT(FROM_CLIENT), 4, 4},
    {FRAME_ATTACH, BIT(FROM_CLIENT), 0, 0},
    {FRAME_CLOSE_INPUT, BIT(FROM_CLIENT), 0, 0},
    {FRAME_RESIZE, BIT(FROM_CLIENT), 8, 8},
    {FRAME_SUSPEND, BIT(FROM_CALLER) | BIT(FROM_CLIENT), 0, 0},
    {FRAME_INIT_BORN, BIT(FROM_INIT), 0, 0},
    {FRAME_INIT_STARTED, BIT(FROM_INIT) | BIT(FROM_GUEST), 8, 8},
    {FRAME_INIT_FAILED, BIT(FROM_INIT) | BIT(FROM_GUEST), 4, 4 + FRAME_TEXT_MAX},
    {FRAME_INIT_SCRIPT, BIT(FROM_INIT) | BIT(FROM_GUEST), 5, 4 + 128},
    {FRAME_INIT_HALT, BIT(TO_INIT) | BIT(TO_GUEST), 0, 0},
    {FRAME_INIT_EXITED, BIT(FROM_INIT) | BIT(FROM_GUEST), 4, 4},
    {FRAME_INIT_USAGE, BIT(FROM_INIT) | BIT(FROM_GUEST), FRAME_USAGE, FRAME_USAGE},
    {FRAME_INIT_TERMINAL, BIT(FROM_INIT), 0, 0},
    {FRAME_INIT_GO, BIT(TO_INIT), 0, 0},
    {FRAME_INIT_LEAVE, BIT(TO_INIT) | BIT(TO_GUEST), 0, 0},
    {FRAME_INIT_SIGNAL, BIT(TO_INIT) | BIT(TO_GUEST), 4, 4},
    {FRAME_INIT_SUSPEND, BIT(TO_INIT), 0, 0},
    {FRAME_INIT_SUSPENDED, BIT(FROM_INIT), 0, 0},
    {FRAME_INIT_AWAKE, BIT(FROM_INIT), 4, 4 + FRAME_TEXT_MAX},
    {FRAME_GUEST_HELLO, BIT(FROM_GUEST), 4, 4},
    {FRAME_GUEST_STDOUT, BIT(FROM_GUEST), 1, FRAME_DATA_MAX},
    {FRAME_GUEST_STDERR, BIT(FROM_GUEST), 1, FRAME_DATA_MAX},
    {FRAME_GUEST_STDIN, BIT(TO_GUEST), 0, FRAME_DATA_MAX},
    {FRAME_GUEST_ROOM, BIT(FROM_GUEST) | BIT(TO_GUEST), 4, 4},
    {FRAME_GUEST_CONFIG, BIT(TO_GUEST), 1, FRAME_DATA_MAX},
    {FRAME_GUEST_GO, BIT(TO_GUEST), 0, GO_LENGTH},
    {FRAME_GUEST_WAKE, BIT(TO_GUEST), 0, 0},
    {FRAME_GUEST_FREEZE, BIT(TO_GUEST), 0, 0},
    {FRAME_GUEST_FROZEN, BIT(FROM_GUEST), 0, 0},
    {FRAME_GUEST_END, BIT(FROM_GUEST), 0, 0},
    {FRAME_GUEST_CLOSE, BIT(TO_GUEST), 0, 0},
    {FRAME_GUEST_RESIZE, BIT(TO_GUEST), 8, 8},
    {FRAME_GUEST_STREAMS_END, BIT(FROM_GUEST), 0, 0},
    {FRAME_GUEST_INPUT_END, BIT(FROM_GUEST), 0, 0},
};

long frame_parse(const uint8_t *bytes, size_t have, enum frame_side side, struct frame *out)
{
    if (have < FRAME_HEADER)
        return 0;
    uint32_t length = get_u32(bytes);
    uint8_t type = bytes[4];
    uint16_t channel = (uint16_t)(bytes[6] | bytes[7] << 8);
    if (bytes[5] != 0 || (channel != 0 && side != FROM_GUEST && side != TO_GUEST))
        return -1;
    for (size_t i = 0; i < sizeof rules / sizeof *rules; i++) {
        const struct rule *rule = &rules[i];
        if (rule->type != type || !(rule->sides & BIT(side)))
            continue;
        if (length < rule->least || length > rule->most)
            return -1;
        if (have - FRAME_HEADER < length)
            return 0;
        *out = (struct frame){.type = type, .channel = channel, .length = length, .payload = bytes + FRAME_HEADER};
        return (long)(FRAME_HEADER + length);
    }
    return -1;
}

size_t frame_header(uint8_t *at, uint8_t type, uint32_t length)
{
    return frame_header_on(at, 0, type, length);
}

size_t frame_header_on(uint8_t *at, uint16_t channel, uint8_t type, uint32_t length)
{
    put_u32(at, length);
    at[4] = type;
    at[5] = 0;
    at[6] = (uint8_t)channel;
    at[7] = (uint8_t)(channel >> 8);
    return FRAME_HEADER;
}

size_t frame_put(uint8_t *at, size_t room, uint16_t channel, uint8_t type, const uint8_t *payload, size_t length)
{
    if (room < FRAME_HEADER + length)
        return 0;
    frame_header_on(at, channel, type, (uint32_t)length);
    if (length > 0)
        memcpy(at + FRAME_HEADER, payload, length);
    return FRAME_HEADER + length;
}
