#include "extents.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "tar.h"

#define EXTENTS_MAX (1024u * 1024u) /* 16 MiB of memory: a bound, since a stranger's file may have any number */
#define NUMBER_MAX 24

static int add(struct extents *to, size_t *room, uint64_t offset, uint64_t length)
{
    if (to->count == EXTENTS_MAX) {
        errno = EFBIG;
        return -1;
    }
    if (to->count == *room) {
        size_t wanted = *room == 0 ? 64 : *room * 2;
        struct extent *grown = realloc(to->list, wanted * sizeof *grown);
        if (grown == NULL)
            return -1;
        to->list = grown;
        *room = wanted;
    }
    to->list[to->count++] = (struct extent){offset, length};
    to->data += length;
    return 0;
}

int extents_of(int fd, uint64_t size, struct extents *out)
{
    size_t room = 0;
    off_t at = 0;
    while ((uint64_t)at < size) {
        off_t data = lseek(fd, at, SEEK_DATA);
        if (data < 0 && errno == ENXIO)
            break; /* nothing but a hole */
        if (data < 0)
            return -1;
        off_t end = lseek(fd, data, SEEK_HOLE);
        if (end < 0 && errno != ENXIO)
            return -1;
        if (end < 0 || (uint64_t)end > size)
            end = (off_t)size;
        if (end <= data)
            break; /* it was cut short meanwhile */
        if (add(out, &room, (uint64_t)data, (uint64_t)(end - data)) != 0)
            return -1;
        at = end;
    }
    /* The file's end is said by a part of no length. */
    if (out->count == 0 || out->list[out->count - 1].offset + out->list[out->count - 1].length < size)
        return add(out, &room, size, 0);
    return 0;
}

static uint64_t digits(uint64_t number)
{
    uint64_t count = 2; /* a newline, too */
    while ((number /= 10) > 0)
        count++;
    return count;
}

static uint64_t text_size(const struct extents *extents)
{
    uint64_t size = digits(extents->count);
    for (size_t i = 0; i < extents->count; i++)
        size += digits(extents->list[i].offset) + digits(extents->list[i].length);
    return size;
}

uint64_t extents_map_size(const struct extents *extents)
{
    uint64_t size = text_size(extents);
    return size + tar_padding(size);
}

static int write_number(uint64_t number)
{
    char text[NUMBER_MAX];
    int length = snprintf(text, sizeof text, "%llu\n", (unsigned long long)number);
    return tar_write(text, (size_t)length);
}

int extents_write(const struct extents *extents)
{
    if (write_number(extents->count) != 0)
        return -1;
    for (size_t i = 0; i < extents->count; i++)
        if (write_number(extents->list[i].offset) != 0 || write_number(extents->list[i].length) != 0)
            return -1;
    return tar_write_padding(text_size(extents));
}

struct map {
    uint8_t block[TAR_BLOCK];
    size_t at;
    uint64_t left; /* bytes of the entry that were not read yet */
};

static int malformed(void)
{
    tar_wrong = "the map of a sparse file is malformed";
    errno = EBADMSG;
    return -1;
}

static int read_number(struct map *map, uint64_t *out)
{
    uint64_t value = 0;
    for (int count = 0; count < NUMBER_MAX; count++) {
        if (map->at == TAR_BLOCK) {
            if (map->left < TAR_BLOCK)
                return malformed();
            if (tar_read_exactly(map->block, TAR_BLOCK) != 0)
                return -1;
            map->at = 0;
            map->left -= TAR_BLOCK;
        }
        uint8_t byte = map->block[map->at++];
        if (byte == '\n' && count > 0) {
            *out = value;
            return 0;
        }
        if (byte < '0' || byte > '9' || value > INT64_MAX / 10 - 1)
            return malformed();
        value = value * 10 + (uint64_t)(byte - '0');
    }
    return malformed();
}

int extents_read(uint64_t size, uint64_t real_size, struct extents *out)
{
    struct map map = {.at = TAR_BLOCK, .left = size};
    uint64_t count, offset, length, end = 0;
    size_t room = 0;
    if (read_number(&map, &count) != 0)
        return -1;
    if (count > EXTENTS_MAX)
        return malformed();
    for (uint64_t i = 0; i < count; i++) {
        if (read_number(&map, &offset) != 0 || read_number(&map, &length) != 0)
            return -1;
        if (offset < end || length > real_size || offset > real_size - length)
            return malformed();
        end = offset + length;
        if (add(out, &room, offset, length) != 0)
            return -1;
    }
    return out->data == map.left ? 0 : malformed();
}
