/* Tar streams: POSIX pax as we write it, and ustar, pax and GNU long names as we read them.
 * https://pubs.opengroup.org/onlinepubs/9699919799/utilities/pax.html,
 * https://www.gnu.org/software/tar/manual/html_node/Sparse-Formats.html (1.0) */
#ifndef DMS_TAR_H
#define DMS_TAR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define TAR_BLOCK 512u
#define TAR_TEXT_MAX (2u * 1024 * 1024) /* of one name; 4,096 levels of 255 bytes and more */

enum tar_type {
    TAR_FILE = '0',
    TAR_HARD_LINK = '1',
    TAR_SYMLINK = '2',
    TAR_CHAR_DEVICE = '3',
    TAR_BLOCK_DEVICE = '4',
    TAR_FOLDER = '5',
    TAR_FIFO = '6',
};

struct tar_entry {
    enum tar_type type;
    uint32_t mode, uid, gid;
    int64_t seconds;
    uint32_t nanoseconds;
    uint64_t size;      /* bytes that follow in the stream, without padding */
    bool sparse;        /* they begin with a map, and the file has real_size bytes */
    uint64_t real_size;
    const char *path, *link; /* of a read entry: valid until the next one is read */
};

/* Both give -1 with errno. */
int tar_write_entry(const struct tar_entry *entry);
int tar_write_end(void);
int tar_write(const void *data, size_t length);
int tar_write_padding(uint64_t size); /* of an entry's data */

/* 1: an entry; 0: the end of the archive; -1: errno says why, EBADMSG and `tar_wrong` that it is no good tar. */
int tar_read_entry(struct tar_entry *out);
ssize_t tar_read(void *data, size_t length); /* at most that; 0 only at the end of the stream */
int tar_read_exactly(void *data, size_t length);
int tar_skip(uint64_t length);
uint64_t tar_padding(uint64_t size);
extern const char *tar_wrong;

#endif
