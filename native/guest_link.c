#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <linux/vm_sockets.h>

#include "frame.h"
#include "guest.h"
#include "sys.h"

#define WHOLE (FRAME_HEADER + FRAME_DATA_MAX)
#define SPARE 8192u /* for what is no data */
#define PORTS "/sys/class/virtio-ports"
#define HOST_PORT 1024u /* of vsock, as src/dms_executor/firecracker/config.py has it */

static uint8_t out[8 * WHOLE + SPARE];
static size_t first, have;
static int port = -1;

/* https://docs.kernel.org/admin-guide/devices.html: a port's name is a file beside it, its node bears its folder's name. */
static bool open_port(const char *name)
{
    char path[300], found[128];
    DIR *folder = opendir(PORTS);
    struct dirent *entry;
    while (port < 0 && folder != NULL && (entry = readdir(folder)) != NULL) {
        if (entry->d_name[0] == '.')
            continue;
        snprintf(path, sizeof path, PORTS "/%.200s/name", entry->d_name);
        ssize_t got = sys_read_file(AT_FDCWD, path, found, sizeof found);
        if (got <= 0 || strncmp(found, name, strlen(name)) != 0 || found[strlen(name)] != '\n')
            continue;
        snprintf(path, sizeof path, "/dev/%.200s", entry->d_name);
        port = open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC);
    }
    if (folder != NULL)
        closedir(folder);
    return port >= 0;
}

/* Where there is no virtio-serial the host listens on vsock; before the device is there, connecting fails at once. */
static bool call_host(void)
{
    struct sockaddr_vm host = {.svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_HOST, .svm_port = HOST_PORT};
    int fd = socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return false;
    if (connect(fd, (struct sockaddr *)&host, sizeof host) != 0 || fcntl(fd, F_SETFL, O_NONBLOCK) != 0) {
        close(fd);
        return false;
    }
    port = fd;
    return true;
}

void link_open(const char *name)
{
    for (int tries = 0; tries < GUEST_TRIES && !open_port(name) && !call_host(); tries++)
        usleep(1000); /* the host announces it some time after its driver is there */
}

int link_fd(void)
{
    return port;
}

static size_t room(void)
{
    return sizeof out - have;
}

bool link_has_room(void)
{
    return room() >= WHOLE + SPARE;
}

bool link_is_busy(void)
{
    return have > first;
}

static void tidy(void)
{
    if (first == 0)
        return;
    memmove(out, out + first, have - first);
    have -= first;
    first = 0;
}

void link_flush(void)
{
    while (have > first) {
        ssize_t put = write(port, out + first, have - first);
        if (put < 0 && errno == EINTR)
            continue;
        if (put <= 0)
            break;
        first += (size_t)put;
    }
    tidy();
}

void link_put_on(uint16_t channel, uint8_t type, const uint8_t *payload, size_t length)
{
    if (room() < FRAME_HEADER + length)
        return;
    have += frame_header_on(out + have, channel, type, (uint32_t)length);
    if (length > 0)
        memcpy(out + have, payload, length);
    have += length;
}

void link_put(uint8_t type, const uint8_t *payload, size_t length)
{
    link_put_on(0, type, payload, length);
}

ssize_t link_carry_on(uint16_t channel, uint8_t type, int from, size_t most)
{
    ssize_t got = read(from, out + have + FRAME_HEADER, most < FRAME_DATA_MAX ? most : FRAME_DATA_MAX);
    if (got <= 0)
        return got;
    frame_header_on(out + have, channel, type, (uint32_t)got);
    have += FRAME_HEADER + (size_t)got;
    return got;
}

ssize_t link_carry(uint8_t type, int from)
{
    return link_carry_on(0, type, from, FRAME_DATA_MAX);
}
