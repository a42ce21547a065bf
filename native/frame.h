/* Frames of docs/protocol.md: `length` u32, `type` u8, `flags` u8, `channel` u16, payload. Little-endian. */
#ifndef DMS_FRAME_H
#define DMS_FRAME_H

#include <stddef.h>
#include <stdint.h>

#define PROTOCOL_VERSION 1u
#define FRAME_HEADER 8u
#define FRAME_CONFIG_MAX (1024u * 1024u)
#define FRAME_TEXT_MAX 1024u /* of an error; what is longer is cut by whoever sends it */
#define FRAME_DATA_MAX 32768u /* of a guest's streams in one frame, and of its configuration */
#define FRAME_USAGE 48u       /* the payload of INIT_USAGE */
#define FRAME_WINDOW 131072u   /* that a command's output may be ahead of who reads it */
#define GO_RANDOM 32u          /* bytes of random numbers in GUEST_GO of the job, behind the time */
#define GO_LENGTH (8u + GO_RANDOM)
#define FRAME_COST 1024u      /* that a frame counts in it beside its data: a socket's buffer counts so, too */

enum frame_type {
    FRAME_CONFIG = 1,
    FRAME_GO = 2,
    FRAME_STOP = 3,
    FRAME_SIGNAL = 4,
    FRAME_HELLO = 5,
    FRAME_OPEN = 6,
    FRAME_ENTER = 7,
    FRAME_CLOSE = 8,
    FRAME_ATTACH = 9,
    FRAME_CLOSE_INPUT = 10,
    FRAME_RESIZE = 11,
    FRAME_SUSPEND = 12,
    FRAME_READY = 64,
    FRAME_STARTED = 65,
    FRAME_FAILED = 66,
    FRAME_STATE = 67,
    FRAME_ENDED = 68,
    FRAME_OK = 69,
    FRAME_ERROR = 70,
    FRAME_CLOSED = 71,
    FRAME_ATTACHED = 72,
    FRAME_INIT_STARTED = 96,
    FRAME_INIT_FAILED = 97,
    FRAME_INIT_EXITED = 98,
    FRAME_INIT_BORN = 99,
    FRAME_INIT_SCRIPT = 100,
    FRAME_INIT_HALT = 101,
    FRAME_INIT_TERMINAL = 104,
    FRAME_INIT_GO = 105,
    FRAME_INIT_USAGE = 106,
    FRAME_INIT_SCRIPTED = 107, /* in a file only */
    FRAME_INIT_LEAVE = 108,
    FRAME_INIT_WROTE = 109, /* in a file only */
    FRAME_INIT_SIGNAL = 112,
    FRAME_INIT_DEADLINE = 113, /* in a file only */
    FRAME_INIT_OUTSIDE = 114,  /* in lines only */
    FRAME_INIT_SUSPEND = 115,
    FRAME_INIT_SUSPENDED = 116,
    FRAME_INIT_AWAKE = 117,
    FRAME_GUEST_HELLO = 128,
    FRAME_GUEST_STDOUT = 129,
    FRAME_GUEST_STDERR = 130,
    FRAME_GUEST_STDIN = 131,
    FRAME_GUEST_ROOM = 132,
    FRAME_GUEST_CONFIG = 133,
    FRAME_GUEST_GO = 134,
    FRAME_GUEST_END = 135,
    FRAME_GUEST_CLOSE = 136,
    FRAME_GUEST_RESIZE = 137,
    FRAME_GUEST_STREAMS_END = 138,
    FRAME_GUEST_INPUT_END = 139,
    FRAME_GUEST_WAKE = 140,
    FRAME_GUEST_FREEZE = 141,
    FRAME_GUEST_FROZEN = 142,
};

/* Who may send what: a frame of another direction is a protocol error. */
enum frame_side { FROM_CALLER, FROM_CLIENT, FROM_INIT, TO_INIT, FROM_GUEST, TO_GUEST };

struct frame {
    uint8_t type;
    uint16_t channel; /* 0 but from and to a guest */
    uint32_t length;
    const uint8_t *payload;
};

/* The first frame in `bytes`: its whole size, 0 while it is not complete, -1 for a protocol error. */
long frame_parse(const uint8_t *bytes, size_t have, enum frame_side side, struct frame *out);

/* Writes a header; returns FRAME_HEADER. */
size_t frame_header(uint8_t *at, uint8_t type, uint32_t length);
size_t frame_header_on(uint8_t *at, uint16_t channel, uint8_t type, uint32_t length);
/* A whole frame, or nothing where `room` is too small for it; how many bytes that are. */
size_t frame_put(uint8_t *at, size_t room, uint16_t channel, uint8_t type, const uint8_t *payload, size_t length);

uint32_t get_u32(const uint8_t *at);
uint64_t get_u64(const uint8_t *at);
void put_u32(uint8_t *at, uint32_t value);
void put_u64(uint8_t *at, uint64_t value);

#endif
