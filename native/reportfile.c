#include "reportfile.h"

#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "frame.h"
#include "sys.h"
#include "usage.h"

/* Docker binds the container's own group here: version 2 as the root of a cgroup namespace, version 1 by controller. */
#define V1 "/sys/fs/cgroup/"
#define V2 "/sys/fs/cgroup/"

int reportfile_open(const char *path)
{
    return open(path, O_RDWR | O_APPEND | O_CLOEXEC | O_NOFOLLOW);
}

void reportfile_append(int report, const uint8_t *frame, size_t length)
{
    static uint8_t held[2 * (FRAME_HEADER + 64) + FRAME_HEADER + 4 + FRAME_TEXT_MAX];
    static size_t have;
    memcpy(held + have, frame, length);
    have += length;
    if (frame[4] == FRAME_INIT_USAGE || frame[4] == FRAME_INIT_WROTE)
        return;
    ssize_t ignored = write(report, held, have);
    (void)ignored;
    have = 0;
}

bool reportfile_halted(int report)
{
    uint8_t first[FRAME_HEADER];
    return pread(report, first, sizeof first, 0) == (ssize_t)sizeof first && first[4] == FRAME_INIT_HALT;
}

int reportfile_socket(int fd)
{
    int type;
    socklen_t size = sizeof type;
    if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size) != 0)
        return -1;
    fcntl(fd, F_SETFD, FD_CLOEXEC);
    return fd;
}

unsigned reportfile_usage(unsigned char *payload)
{
    static const struct usage_source sources[] = {
        {"cpu_us", V2 "cpu.stat", "usage_usec"},
        {"cpu_ns", V1 "cpuacct/cpuacct.usage", ""},
        {"cpu_ns", V1 "cpu,cpuacct/cpuacct.usage", ""},
        {"memory_peak", V2 "memory.peak", ""},
        {"memory_peak", V1 "memory/memory.max_usage_in_bytes", ""},
        {"oom_kills", V2 "memory.events", "oom_kill"},
        {"oom_kills", V1 "memory/memory.oom_control", "oom_kill"},
        {"io_read", V2 "io.stat", "rbytes"},
        {"io_read", V1 "blkio/blkio.throttle.io_service_bytes", "Read"},
        {"io_write", V2 "io.stat", "wbytes"},
        {"io_write", V1 "blkio/blkio.throttle.io_service_bytes", "Write"},
    };
    struct usage usage;
    memset(&usage, 0, sizeof usage);
    usage_read(sources, sizeof sources / sizeof *sources, &usage);
    put_u64(payload, sys_realtime());
    for (int key = 0; key < USAGE_KEYS; key++)
        put_u64(payload + 8 + 8 * key, usage.known[key] ? usage.value[key] : UINT64_MAX);
    return 8 + 8 * USAGE_KEYS;
}
