/* The parts of a file that hold data, and their form in a tar stream (GNU sparse 1.0). */
#ifndef DMS_EXTENTS_H
#define DMS_EXTENTS_H

#include <stddef.h>
#include <stdint.h>

struct extent {
    uint64_t offset, length;
};

struct extents {
    struct extent *list;
    size_t count;
    uint64_t data; /* bytes of all together */
};

/* Of an opened file, up to `size`. -1 with errno; EFBIG: more parts than anybody needs. */
int extents_of(int fd, uint64_t size, struct extents *out);
uint64_t extents_map_size(const struct extents *extents); /* whole blocks */
int extents_write(const struct extents *extents);

/* From the data of a sparse entry: `size` bytes with the map, of a file of `real_size`. */
int extents_read(uint64_t size, uint64_t real_size, struct extents *out);

#endif
