/* Hostile input for every parser that faces another party: frames of clients, inits and guests, CONFIG, what a guest is
 * told, cgroup files, texts for the record. Random bytes, and mutations of valid input. `dms-fuzz SEED ROUNDS`; a finding ends it by abort. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config.h"
#include "frame.h"
#include "guest.h"
#include "json.h"
#include "open.h"
#include "usage.h"

#define LARGEST 2048u

static uint64_t state;

static uint32_t chance(uint32_t below)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (uint32_t)(state >> 11) % below;
}

/* Exactly as large as the input, so that the sanitizer sees a read one byte too far. */
static uint8_t *exact(const uint8_t *bytes, size_t length, size_t spare)
{
    uint8_t *copy = malloc(length + spare + (length + spare == 0));
    if (copy == NULL)
        abort();
    if (length > 0)
        memcpy(copy, bytes, length);
    return copy;
}

static size_t entry(uint8_t *out, uint8_t tag, const void *bytes, size_t length)
{
    out[0] = tag;
    memset(out + 1, 0, 3);
    put_u32(out + 4, (uint32_t)length);
    memcpy(out + 8, bytes, length);
    return 8 + length;
}

/* What a CONFIG needs, and what it may say of ids and descriptors: else few would get as far as their checks. */
static size_t plausible_entries(uint8_t *out)
{
    static const uint32_t some[] = {0, 1, 65535, 65536, 0x70000000, 0x7fffffff, 0xffff0000, 0xfffffffe, 0xffffffff};
    uint8_t bytes[8];
    put_u32(bytes, 1);
    size_t at = entry(out, 1, bytes, 4);
    at += entry(out + at, 3, "/a", 2);
    for (uint32_t left = chance(4); left > 0; left--) {
        put_u32(bytes, some[chance(9)]);
        put_u32(bytes + 4, some[chance(9)]);
        at += entry(out + at, 30, bytes, chance(16) ? 8 : chance(9));
    }
    for (uint32_t left = chance(3); left > 0; left--) {
        put_u32(bytes, chance(5));
        at += entry(out + at, chance(2) ? 31 : 10, bytes, chance(16) ? 4 : chance(9));
    }
    return at;
}

static size_t some_entries(uint8_t *out)
{
    size_t at = chance(2) ? plausible_entries(out) : 0;
    if (chance(3) == 0)
        return at;
    for (uint32_t left = chance(12); left > 0; left--) {
        uint32_t length = chance(5) ? chance(40) : 4u << chance(2);
        out[at] = (uint8_t)chance(60); /* past the last tag as well */
        memset(out + at + 1, 0, 3);
        put_u32(out + at + 4, length);
        for (uint32_t i = 0; i < length; i++)
            out[at + 8 + i] = (uint8_t)(chance(3) ? "/abc."[chance(5)] : chance(3));
        at += 8 + length;
    }
    return at;
}

/* What a guest is told of its job: a head that is valid, then files, volumes and ids of any form. */
static size_t some_job(uint8_t *out)
{
    uint8_t bytes[40];
    put_u32(bytes, 1);
    size_t at = entry(out, 1, bytes, 4);
    at += entry(out + at, 2, "/a", 2);
    for (uint32_t left = chance(4); left > 0; left--) {
        static const uint8_t tags[] = {4, 5, 10, 12, 12, 14, 14};
        for (size_t i = 0; i < sizeof bytes; i++)
            bytes[i] = (uint8_t)(chance(3) ? "/abc"[chance(4)] : 0);
        put_u32(bytes, chance(2) ? 0x612f : 1 + chance(5)); /* "/a", or a kind of volume */
        at += entry(out + at, tags[chance(sizeof tags)], bytes, chance(4) ? 8 + 4 * chance(9) : chance(sizeof bytes));
    }
    return at;
}

static size_t some_frame(uint8_t *out)
{
    static const uint8_t types[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 64, 70, 96, 97, 98, 99, 104, 105, 106, 112, 128, 129, 130, 131, 132, 133, 134,
                                    135, 200};
    uint32_t length = chance(30);
    frame_header(out, types[chance(sizeof types)], length);
    for (uint32_t i = 0; i < length; i++)
        out[8 + i] = (uint8_t)chance(256);
    return 8 + length;
}

static size_t some_text(uint8_t *out)
{
    static const char *const words[] = {"rbytes=", "oom_kill ", "18446744073709551616", "7", "\n", " ", "Read", "="};
    size_t at = 0;
    for (uint32_t left = chance(40); left > 0; left--) {
        const char *word = words[chance(8)];
        memcpy(out + at, word, strlen(word));
        at += strlen(word);
    }
    return at;
}

static size_t some_command(uint8_t *out)
{
    size_t at = 0;
    for (uint32_t left = chance(80); left > 0; left--) {
        for (uint32_t letters = chance(5); letters > 0; letters--)
            out[at++] = (uint8_t)"/abc"[chance(4)];
        out[at++] = 0;
    }
    return at;
}

static size_t input(uint8_t *out)
{
    size_t length;
    switch (chance(6)) {
    case 4:
        length = some_job(out);
        break;
    case 0:
        length = some_entries(out);
        break;
    case 1:
        length = some_frame(out);
        break;
    case 2:
        length = some_text(out);
        break;
    case 3:
        length = some_command(out);
        break;
    default:
        length = chance(200);
        for (size_t i = 0; i < length; i++)
            out[i] = (uint8_t)chance(256);
    }
    if (length > 0 && chance(2))
        out[chance((uint32_t)length)] = (uint8_t)chance(256);
    return length > 0 && chance(4) == 0 ? chance((uint32_t)length) : length;
}

static void parse_frames(const uint8_t *bytes, size_t length)
{
    for (int side = FROM_CALLER; side <= TO_GUEST; side++) {
        uint8_t *copy = exact(bytes, length, 0);
        struct frame frame;
        long size = frame_parse(copy, length, (enum frame_side)side, &frame);
        if (size > (long)length || (size > 0 && frame.payload + frame.length > copy + length))
            abort();
        free(copy);
    }
}

static bool is_one_of(int fd, const int *fds, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (fds[i] == fd)
            return true;
    return false;
}

/* None of the job's ids is one of the host's own, and none is past the last. */
static bool ids_hold(const struct idmap *idmap)
{
    return idmap->count == 0 || (idmap->first >= 65536 && (uint64_t)idmap->first + idmap->count <= UINT32_MAX);
}

static unsigned long accepted, accepted_by_guests;

static void parse_config(const uint8_t *bytes, size_t length)
{
    static const int fds[3] = {10, 11, 12};
    static struct config config;
    memset(&config, 0, sizeof config);
    uint8_t *copy = exact(bytes, length, 1);
    if (config_parse(copy, length, fds, chance(4), &config) == NULL) {
        accepted++;
        size_t total = strlen(config.argv[0]);
        for (size_t i = 0; i < config.mount_count; i++)
            total += strlen(config.mounts[i].target);
        for (size_t i = 0; i < config.usage_count; i++)
            total += strlen(config.usage[i].key) + strlen(config.usage[i].path) + strlen(config.usage[i].field);
        if (total > length || !ids_hold(&config.idmap) || (config.hold_fd != -1 && !is_one_of(config.hold_fd, fds, 3)))
            abort();
    }
    free(copy);
}

static void parse_guest_config(const uint8_t *bytes, size_t length)
{
    static struct guest_config config;
    uint8_t *copy = exact(bytes, length, 1);
    if (guest_config_parse(copy, length, &config) == NULL) {
        accepted_by_guests++;
        size_t total = strlen(config.argv[0]) + strlen(config.directory) + config.scripts_length + config.filter_length;
        for (size_t i = 0; i < config.file_count; i++)
            total += strlen(config.files[i].path) + config.files[i].length;
        for (size_t i = 0; i < config.volume_count; i++)
            total += strlen(config.volumes[i].device) + strlen(config.volumes[i].target);
        if (total > length || config.group_count > GUEST_GROUPS || config.argv[config.argc] != NULL)
            abort();
    }
    free(copy);
}

static void parse_open(const uint8_t *bytes, size_t length)
{
    uint8_t *copy = exact(bytes, length, 0);
    struct open_request request;
    if (open_parse(copy, length, &request)) {
        size_t total = strlen(request.group) + 1;
        for (size_t i = 0; i < request.argc; i++)
            total += strlen(request.argv[i]) + 1;
        if (total != length || request.argc == 0 || request.argv[request.argc] != NULL)
            abort();
    }
    free(copy);
}

static void parse_texts(const uint8_t *bytes, size_t length)
{
    char *text = (char *)exact(bytes, length, 1);
    text[length] = 0;
    uint64_t number;
    usage_number(text, "", &number);
    usage_number(text, "rbytes", &number);
    usage_number(text, "oom_kill", &number);
    char small[64];
    struct json json = {.text = small, .size = chance(sizeof small) + 1};
    json_string(&json, text);
    if (json.length >= json.size)
        abort();
    free(text);
}

int main(int argc, char **argv)
{
    static uint8_t bytes[LARGEST];
    state = argc > 1 ? strtoull(argv[1], NULL, 10) * 2654435761u + 1 : 1;
    unsigned long rounds = argc > 2 ? strtoul(argv[2], NULL, 10) : 100000;
    for (unsigned long i = 0; i < rounds; i++) {
        size_t length = input(bytes);
        parse_frames(bytes, length);
        parse_config(bytes, length);
        parse_guest_config(bytes, length);
        parse_open(bytes, length);
        parse_texts(bytes, length);
    }
    printf("%lu rounds, %lu valid, %lu of guests\n", rounds, accepted, accepted_by_guests);
    return 0;
}
