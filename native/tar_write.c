/* Writing a tar stream to descriptor 1. What does not fit a ustar header goes into a pax header before it. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

#include "sys.h"
#include "tar.h"

#define BUFFER 65536u
#define NAME_MAX_USTAR 100u
#define OCTAL_11 077777777777ull
#define OCTAL_7 07777777ull
#define ID_MAX_DIGITS 24

static uint8_t buffer[BUFFER];
static size_t used;

struct text {
    char *bytes;
    size_t length;
};

static int flush(void)
{
    int result = sys_write_all(1, buffer, used);
    used = 0;
    return result;
}

int tar_write(const void *data, size_t length)
{
    if (length > BUFFER - used && flush() != 0)
        return -1;
    if (length > BUFFER)
        return sys_write_all(1, data, length);
    memcpy(buffer + used, data, length);
    used += length;
    return 0;
}

uint64_t tar_padding(uint64_t size)
{
    return (TAR_BLOCK - size % TAR_BLOCK) % TAR_BLOCK;
}

int tar_write_padding(uint64_t size)
{
    static const uint8_t zeros[TAR_BLOCK];
    return tar_write(zeros, (size_t)tar_padding(size));
}

static void octal(uint8_t *at, size_t digits, uint64_t value)
{
    at[digits] = 0;
    while (digits > 0) {
        at[--digits] = (uint8_t)('0' + (value & 7));
        value >>= 3;
    }
}

static void seal(uint8_t *header)
{
    unsigned sum = 0;
    memset(header + 148, ' ', 8);
    for (size_t i = 0; i < TAR_BLOCK; i++)
        sum += header[i];
    octal(header + 148, 6, sum);
    header[155] = ' ';
}

static int write_header(char type, const char *path, const char *link, const struct tar_entry *entry, uint64_t size)
{
    uint8_t header[TAR_BLOCK] = {0};
    size_t length = strlen(path);
    memcpy(header, path, length < NAME_MAX_USTAR ? length : NAME_MAX_USTAR);
    octal(header + 100, 7, entry->mode & 07777);
    octal(header + 108, 7, entry->uid <= OCTAL_7 ? entry->uid : 0);
    octal(header + 116, 7, entry->gid <= OCTAL_7 ? entry->gid : 0);
    octal(header + 124, 11, size <= OCTAL_11 ? size : 0);
    octal(header + 136, 11, entry->seconds >= 0 && (uint64_t)entry->seconds <= OCTAL_11 ? (uint64_t)entry->seconds : 0);
    header[156] = (uint8_t)type;
    length = link == NULL ? 0 : strlen(link);
    if (length > 0)
        memcpy(header + 157, link, length < NAME_MAX_USTAR ? length : NAME_MAX_USTAR);
    memcpy(header + 257, "ustar\00000", 8);
    seal(header);
    return tar_write(header, sizeof header);
}

/* A record holds its own length, digits included. */
static int add_record(struct text *text, const char *key, const char *value)
{
    char number[ID_MAX_DIGITS];
    size_t rest = strlen(key) + strlen(value) + 3, length = rest + 1;
    while (length != rest + (size_t)snprintf(number, sizeof number, "%zu", length))
        length = rest + strlen(number);
    char *grown = realloc(text->bytes, text->length + length + 1);
    if (grown == NULL)
        return -1;
    text->bytes = grown;
    snprintf(grown + text->length, length + 1, "%s %s=%s\n", number, key, value);
    text->length += length;
    return 0;
}

static int add_number(struct text *text, const char *key, uint64_t value)
{
    char number[ID_MAX_DIGITS];
    snprintf(number, sizeof number, "%llu", (unsigned long long)value);
    return add_record(text, key, number);
}

static int add_time(struct text *text, int64_t seconds, uint32_t nanoseconds)
{
    char number[48];
    /* The fraction counts away from zero: -1.25 s is -2 s and 750,000,000 ns to the kernel. */
    const char *sign = "";
    if (seconds < 0) {
        sign = "-";
        seconds = -seconds;
        if (nanoseconds > 0) {
            seconds -= 1;
            nanoseconds = 1000000000u - nanoseconds;
        }
    }
    snprintf(number, sizeof number, "%s%lld.%09u", sign, (long long)seconds, nanoseconds);
    return add_record(text, "mtime", number);
}

static bool is_utf8(const char *text)
{
    const uint8_t *at = (const uint8_t *)text;
    while (*at != 0) {
        int more = *at < 0x80 ? 0 : (*at & 0xe0) == 0xc0 ? 1 : (*at & 0xf0) == 0xe0 ? 2 : (*at & 0xf8) == 0xf0 ? 3 : -1;
        if (more < 0)
            return false;
        for (at++; more > 0; more--, at++)
            if ((*at & 0xc0) != 0x80)
                return false;
    }
    return true;
}

static int records_of(const struct tar_entry *entry, struct text *text)
{
    const char *link = entry->link == NULL ? "" : entry->link;
    bool long_path = strlen(entry->path) > NAME_MAX_USTAR, long_link = strlen(link) > NAME_MAX_USTAR;
    int result = 0;
    if (((long_path || entry->sparse) && !is_utf8(entry->path)) || (long_link && !is_utf8(link)))
        result |= add_record(text, "hdrcharset", "BINARY");
    if (long_path && !entry->sparse)
        result |= add_record(text, "path", entry->path);
    if (long_link)
        result |= add_record(text, "linkpath", link);
    if (entry->size > OCTAL_11)
        result |= add_number(text, "size", entry->size);
    if (entry->uid > OCTAL_7)
        result |= add_number(text, "uid", entry->uid);
    if (entry->gid > OCTAL_7)
        result |= add_number(text, "gid", entry->gid);
    if (entry->nanoseconds != 0 || entry->seconds < 0 || (uint64_t)entry->seconds > OCTAL_11)
        result |= add_time(text, entry->seconds, entry->nanoseconds);
    if (entry->sparse) {
        result |= add_record(text, "GNU.sparse.major", "1");
        result |= add_record(text, "GNU.sparse.minor", "0");
        result |= add_record(text, "GNU.sparse.name", entry->path);
        result |= add_number(text, "GNU.sparse.realsize", entry->real_size);
    }
    return result;
}

int tar_write_entry(const struct tar_entry *entry)
{
    struct text text = {0};
    int result = records_of(entry, &text);
    if (result == 0 && text.length > 0) {
        const struct tar_entry plain = {.mode = 0644};
        result = write_header('x', "PaxHeaders/entry", NULL, &plain, text.length);
        if (result == 0)
            result = tar_write(text.bytes, text.length);
        if (result == 0)
            result = tar_write_padding(text.length);
    }
    free(text.bytes);
    if (result != 0)
        return -1;
    return write_header((char)entry->type, entry->path, entry->link, entry, entry->size);
}

int tar_write_end(void)
{
    static const uint8_t zeros[2 * TAR_BLOCK];
    return tar_write(zeros, sizeof zeros) == 0 ? flush() : -1;
}
