/* Reading a tar stream from descriptor 0. Whoever wrote it may be a stranger: every length has a bound, every number
 * is checked, and what is not understood is an error. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

#include "tar.h"

#define BUFFER 65536u
#define RECORDS_MAX (2u * TAR_TEXT_MAX + 65536u)

const char *tar_wrong = "";

static uint8_t buffer[BUFFER];
static size_t at, have;
static char *records, *long_path, *long_link; /* of the entry that is read now */
static char short_path[100 + 1 + 155 + 1], short_link[101];

struct header {
    struct tar_entry entry;
    char type;
};

static int wrong(const char *why)
{
    tar_wrong = why;
    errno = EBADMSG;
    return -1;
}

static ssize_t fill(void)
{
    ssize_t got;
    while ((got = read(0, buffer, sizeof buffer)) < 0 && errno == EINTR)
        ;
    at = 0;
    have = got > 0 ? (size_t)got : 0;
    return got;
}

ssize_t tar_read(void *data, size_t length)
{
    if (at == have) {
        ssize_t got = fill();
        if (got <= 0)
            return got;
    }
    size_t part = have - at < length ? have - at : length;
    memcpy(data, buffer + at, part);
    at += part;
    return (ssize_t)part;
}

int tar_read_exactly(void *data, size_t length)
{
    for (uint8_t *to = data; length > 0;) {
        ssize_t got = tar_read(to, length);
        if (got < 0)
            return -1;
        if (got == 0)
            return wrong("it ends in the middle");
        to += got;
        length -= (size_t)got;
    }
    return 0;
}

int tar_skip(uint64_t length)
{
    uint8_t thrown[TAR_BLOCK];
    while (length > 0) {
        size_t part = length < sizeof thrown ? (size_t)length : sizeof thrown;
        if (tar_read_exactly(thrown, part) != 0)
            return -1;
        length -= part;
    }
    return 0;
}

static bool decimal(const char *text, uint64_t *out)
{
    uint64_t value = 0;
    if (*text == 0)
        return false;
    for (; *text >= '0' && *text <= '9'; text++) {
        if (value > (UINT64_MAX - 9) / 10)
            return false;
        value = value * 10 + (uint64_t)(*text - '0');
    }
    *out = value;
    return *text == 0;
}

/* Octal digits, or GNU's big-endian number behind a first bit that is set. */
static bool field(const uint8_t *from, size_t size, int64_t *out)
{
    uint64_t value = 0;
    size_t i = 0;
    if (from[0] & 0x80) {
        bool negative = from[0] == 0xff;
        for (i = 1; i + 8 < size; i++)
            if (from[i] != (negative ? 0xff : 0))
                return false;
        for (i = size > 8 ? size - 8 : 1; i < size; i++)
            value = value << 8 | from[i];
        *out = (int64_t)value;
        return negative || *out >= 0;
    }
    while (i < size && from[i] == ' ')
        i++;
    for (; i < size && from[i] >= '0' && from[i] <= '7'; i++)
        value = value << 3 | (uint64_t)(from[i] - '0');
    *out = (int64_t)value;
    return i == size || from[i] == 0 || from[i] == ' ';
}

static bool sums_up(const uint8_t *header)
{
    int64_t told;
    unsigned sum = 0;
    int with_signs = 0; /* as some old programs have it */
    for (size_t i = 0; i < TAR_BLOCK; i++) {
        uint8_t byte = i >= 148 && i < 156 ? ' ' : header[i];
        sum += byte;
        with_signs += (int8_t)byte;
    }
    return field(header + 148, 8, &told) && (told == (int64_t)sum || told == with_signs);
}

static void names_of(const uint8_t *header)
{
    size_t length = 0;
    if (memcmp(header + 257, "ustar\0", 6) == 0 && header[345] != 0) {
        length = strnlen((const char *)header + 345, 155);
        memcpy(short_path, header + 345, length);
        short_path[length++] = '/';
    }
    size_t part = strnlen((const char *)header, 100);
    memcpy(short_path + length, header, part);
    short_path[length + part] = 0;
    part = strnlen((const char *)header + 157, 100);
    memcpy(short_link, header + 157, part);
    short_link[part] = 0;
}

static int parse(const uint8_t *header, struct header *out)
{
    int64_t mode, uid, gid, size, seconds;
    if (!sums_up(header))
        return wrong("a header's sum is not right: this is no tar, or a compressed one");
    if (!field(header + 100, 8, &mode) || !field(header + 108, 8, &uid) || !field(header + 116, 8, &gid) ||
        !field(header + 124, 12, &size) || !field(header + 136, 12, &seconds))
        return wrong("a header holds what is no number");
    if (uid < 0 || uid > UINT32_MAX || gid < 0 || gid > UINT32_MAX || size < 0 || size > INT64_MAX / 2)
        return wrong("a header's number is out of range");
    names_of(header);
    out->type = (char)header[156];
    out->entry = (struct tar_entry){
        .mode = (uint32_t)mode & 07777,
        .uid = (uint32_t)uid,
        .gid = (uint32_t)gid,
        .size = (uint64_t)size,
        .seconds = seconds,
        .path = short_path,
        .link = short_link,
    };
    return 0;
}

/* The data of an entry that is only about the next one, with a NUL behind it. */
static char *text_of(uint64_t size)
{
    if (size > RECORDS_MAX) {
        wrong("an extended header is too long");
        return NULL;
    }
    char *text = malloc((size_t)size + 1);
    if (text == NULL)
        return NULL;
    if (tar_read_exactly(text, (size_t)size) != 0 || tar_skip(tar_padding(size)) != 0) {
        free(text);
        return NULL;
    }
    text[size] = 0;
    return text;
}

static bool set_time(const char *value, struct tar_entry *entry)
{
    char *end;
    uint64_t fraction = 0;
    uint32_t unit = 100000000;
    bool negative = *value == '-';
    errno = 0;
    entry->seconds = strtoll(value, &end, 10);
    if (end == value || errno != 0)
        return false;
    if (*end == '.')
        for (end++; *end >= '0' && *end <= '9'; end++, unit /= 10)
            fraction += unit * (uint64_t)(*end - '0');
    if (negative && fraction > 0) {
        if (entry->seconds == INT64_MIN)
            return false;
        entry->seconds -= 1;
        fraction = 1000000000 - fraction;
    }
    entry->nanoseconds = (uint32_t)fraction;
    return *end == 0;
}

static int record(const char *key, char *value, struct tar_entry *entry, int *sparse)
{
    uint64_t number;
    bool good = true;
    if (strcmp(key, "path") == 0 || strcmp(key, "GNU.sparse.name") == 0) {
        entry->path = value;
    } else if (strcmp(key, "linkpath") == 0) {
        entry->link = value;
    } else if (strcmp(key, "mtime") == 0) {
        good = set_time(value, entry);
    } else if (strcmp(key, "size") == 0) {
        good = decimal(value, &entry->size) && entry->size <= INT64_MAX / 2;
    } else if (strcmp(key, "uid") == 0 || strcmp(key, "gid") == 0) {
        good = decimal(value, &number) && number <= UINT32_MAX;
        *(*key == 'u' ? &entry->uid : &entry->gid) = good ? (uint32_t)number : 0;
    } else if (strcmp(key, "GNU.sparse.realsize") == 0) {
        good = decimal(value, &entry->real_size) && entry->real_size <= INT64_MAX;
    } else if (strcmp(key, "GNU.sparse.major") == 0) {
        *sparse = strcmp(value, "1") == 0 ? 1 : -1;
    } else if (strncmp(key, "GNU.sparse.", 11) == 0 && strcmp(key, "GNU.sparse.minor") != 0 && *sparse == 0) {
        *sparse = -1;
    }
    return good ? 0 : wrong("an extended header holds what is no number");
}

/* `length key=value\n`, again and again; the next header's fields give way to them. */
static int apply_records(size_t size, struct tar_entry *entry)
{
    int sparse = 0;
    for (char *from = records, *end = records + size; from < end;) {
        char *key, *value;
        errno = 0;
        unsigned long long length = strtoull(from, &key, 10);
        if (errno != 0 || key == from || *key != ' ' || length > (size_t)(end - from) || from + length <= key + 1 ||
            from[length - 1] != '\n')
            return wrong("an extended header is malformed");
        from[length - 1] = 0;
        key++;
        value = strchr(key, '=');
        if (value == NULL || strlen(key) != length - 1 - (size_t)(key - from))
            return wrong("an extended header is malformed");
        *value++ = 0;
        if (record(key, value, entry, &sparse) != 0)
            return -1;
        from += length;
    }
    if (sparse < 0)
        return wrong("it holds a sparse file in an old form: write it with --sparse-version=1.0");
    entry->sparse = sparse > 0;
    return 0;
}

static void forget(void)
{
    free(records);
    free(long_path);
    free(long_link);
    records = long_path = long_link = NULL;
}

static int next_header(struct header *header)
{
    uint8_t block[TAR_BLOCK];
    static const uint8_t zeros[TAR_BLOCK];
    if (tar_read_exactly(block, sizeof block) != 0)
        return -1;
    if (memcmp(block, zeros, sizeof block) == 0)
        return 0;
    return parse(block, header) == 0 ? 1 : -1;
}

static int finish_entry(struct header *header, size_t records_size, struct tar_entry *out)
{
    *out = header->entry;
    if (long_path != NULL)
        out->path = long_path;
    if (long_link != NULL)
        out->link = long_link;
    if (records != NULL && apply_records(records_size, out) != 0)
        return -1;
    if (strlen(out->path) > TAR_TEXT_MAX || strlen(out->link) > TAR_TEXT_MAX)
        return wrong("a name is too long");
    out->type = header->type == 0 || header->type == '7' ? TAR_FILE : (enum tar_type)header->type;
    size_t length = strlen(out->path);
    if (out->type == TAR_FILE && length > 0 && out->path[length - 1] == '/')
        out->type = TAR_FOLDER; /* before POSIX */
    if (out->type != TAR_FILE)
        out->sparse = false;
    if (out->type < TAR_FILE || out->type > TAR_FIFO)
        return wrong(header->type == 'S' ? "it holds a sparse file in an old form: write it with --format=posix"
                                         : "it holds an entry of an unknown type");
    return 1;
}

int tar_read_entry(struct tar_entry *out)
{
    struct header header;
    size_t records_size = 0;
    char **text;
    forget();
    for (;;) {
        int found = next_header(&header);
        if (found <= 0)
            return found;
        switch (header.type) {
        case 'x':
            text = &records;
            break;
        case 'L':
            text = &long_path;
            break;
        case 'K':
            text = &long_link;
            break;
        case 'g': /* of all entries: comments of whoever made it */
            if (tar_skip(header.entry.size + tar_padding(header.entry.size)) != 0)
                return -1;
            continue;
        default:
            return finish_entry(&header, records_size, out);
        }
        free(*text);
        *text = text_of(header.entry.size);
        if (*text == NULL)
            return -1;
        if (text == &records)
            records_size = (size_t)header.entry.size;
    }
}
