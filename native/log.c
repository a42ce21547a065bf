#include "log.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include "complain.h"
#include "frame.h"
#include "log_past.h"
#include "sys.h"

#define LEAST_SEGMENT 4096u
#define LARGEST_CHUNK (256u * 1024u)
/* Freed when the disk is full at the end, so that the gap and the end mark still find room. */
#define RESERVE "reserve"
#define RESERVE_BYTES 4096

static struct {
    int folder, segment_fd;
    uint64_t cap, segment, total; /* bytes of all segments */
    uint64_t first, last, offset;
    uint64_t seen[2], lost[2]; /* stdout, stderr */
    bool sync, complained;
} writer = {.folder = -1, .segment_fd = -1};

static int write_segment_header(int fd, uint64_t number)
{
    uint8_t header[SEGMENT_HEADER] = "DMSLOG\x00\x01";
    put_u64(header + 8, number);
    put_u64(header + 16, writer.seen[0]);
    put_u64(header + 24, writer.seen[1]);
    put_u64(header + 32, sys_realtime());
    ssize_t wrote = write(fd, header, sizeof header);
    if (wrote >= 0 && wrote != sizeof header)
        errno = ENOSPC;
    return wrote == sizeof header ? 0 : -1;
}

/* Under a temporary name until its header is whole: a reader never meets half a header. */
static int next_segment(void)
{
    char name[24];
    int fd = openat(writer.folder, "next", O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return -1;
    log_name_of(writer.last + 1, name);
    if (write_segment_header(fd, writer.last + 1) != 0 || renameat(writer.folder, "next", writer.folder, name) != 0) {
        int error = errno;
        close(fd);
        unlinkat(writer.folder, "next", 0);
        errno = error;
        return -1;
    }
    if (writer.segment_fd >= 0) {
        if (writer.sync && fdatasync(writer.segment_fd) != 0)
            complain("log: fdatasync: %m");
        close(writer.segment_fd);
    }
    writer.segment_fd = fd;
    writer.last++;
    writer.offset = SEGMENT_HEADER;
    writer.total += SEGMENT_HEADER;
    return 0;
}

static void drop_oldest(void)
{
    char name[24];
    struct stat status;
    log_name_of(writer.first, name);
    if (fstatat(writer.folder, name, &status, AT_SYMLINK_NOFOLLOW) == 0)
        writer.total -= (uint64_t)status.st_size < writer.total ? (uint64_t)status.st_size : writer.total;
    unlinkat(writer.folder, name, 0);
    writer.first++;
}

static void reserve(void)
{
    int fd = openat(writer.folder, RESERVE, O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return;
    posix_fallocate(fd, 0, RESERVE_BYTES); /* a file system that cannot do it loses only this nicety */
    close(fd);
}

int log_open(int folder, uint64_t cap, uint64_t segment, bool sync, bool goes_on)
{
    if (mkdirat(folder, "log", 0700) != 0 && errno != EEXIST)
        return -1;
    writer.folder = openat(folder, "log", O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    if (writer.folder < 0)
        return -1;
    writer.cap = cap;
    writer.segment = segment > cap / 4 ? cap / 4 : segment;
    if (writer.segment < LEAST_SEGMENT)
        writer.segment = LEAST_SEGMENT;
    writer.sync = sync;
    writer.first = 1;
    if (goes_on) {
        struct log_past past;
        if (log_look_back(writer.folder, &past) != 0)
            return -1;
        writer.first = past.first;
        writer.last = past.last;
        writer.total = past.total;
        memcpy(writer.seen, past.seen, sizeof writer.seen);
    }
    reserve();
    return next_segment();
}

size_t log_chunk(void)
{
    uint64_t room = writer.segment - SEGMENT_HEADER - ENTRY_HEADER;
    return room < LARGEST_CHUNK ? (size_t)room : LARGEST_CHUNK;
}

static bool make_room(size_t size)
{
    if (writer.offset > SEGMENT_HEADER && writer.offset + size > writer.segment && next_segment() != 0)
        return false;
    while (writer.total + size > writer.cap && writer.first < writer.last)
        drop_oldest();
    return true;
}

/* One call for header and data, so that only the last entry can ever be torn; a short one is taken back. */
static bool append(enum log_kind kind, const uint8_t *data, size_t length)
{
    uint8_t header[ENTRY_HEADER] = {0};
    size_t size = ENTRY_HEADER + length;
    if (!make_room(size))
        return false;
    put_u32(header, (uint32_t)length);
    header[4] = (uint8_t)kind;
    put_u64(header + 8, sys_realtime());
    struct iovec parts[2] = {{header, ENTRY_HEADER}, {(void *)(uintptr_t)data, length}};
    ssize_t wrote = writev(writer.segment_fd, parts, length > 0 ? 2 : 1);
    if (wrote == (ssize_t)size) {
        writer.offset += size;
        writer.total += size;
        return true;
    }
    int error = wrote < 0 ? errno : ENOSPC;
    if (wrote > 0 && (ftruncate(writer.segment_fd, (off_t)writer.offset) != 0 ||
                      lseek(writer.segment_fd, (off_t)writer.offset, SEEK_SET) < 0))
        complain("log: a torn entry could not be taken back: %m");
    errno = error;
    return false;
}

static bool write_gaps(void)
{
    for (unsigned i = 0; i < 2; i++) {
        if (writer.lost[i] == 0)
            continue;
        uint8_t gap[GAP_LENGTH] = {(uint8_t)(i + 1)};
        put_u64(gap + 8, writer.lost[i]);
        if (!append(LOG_GAP, gap, sizeof gap))
            return false;
        writer.lost[i] = 0;
    }
    return true;
}

void log_write(enum log_kind stream, const uint8_t *data, size_t length)
{
    bool written = write_gaps() && append(stream, data, length);
    if (!written) {
        if (!writer.complained)
            complain("log: output is being lost: %m");
        writer.complained = true;
        writer.lost[stream - 1] += length;
    }
    /* After the write, since a new segment's header tells what came before it. */
    writer.seen[stream - 1] += length;
}

/* `marked`: nothing follows. */
static void finish(bool marked)
{
    bool written = write_gaps() && (!marked || append(LOG_END, NULL, 0));
    unlinkat(writer.folder, RESERVE, 0);
    if (!written && !(write_gaps() && (!marked || append(LOG_END, NULL, 0))))
        complain("log: its end could not be written: %m");
    if ((writer.sync || !marked) && (fdatasync(writer.segment_fd) != 0 || fsync(writer.folder) != 0))
        complain("log: fdatasync: %m");
}

void log_end(void)
{
    finish(true);
    close(writer.segment_fd);
    writer.segment_fd = -1;
}

void log_suspend(void)
{
    finish(false);
}
