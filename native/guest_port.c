#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <linux/vm_sockets.h>

#include "guest.h"
#include "sys.h"

#define PORTS "/sys/class/virtio-ports"
#define HOST_PORT 1024u /* of vsock, as src/dms_executor/firecracker/config.py has it */

static bool is_call;

/* https://docs.kernel.org/admin-guide/devices.html: a port's name is a file beside it, its node bears its folder's name. */
static bool open_port(const char *name)
{
    int port = -1;
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
    if (port >= 0)
        link_use(port);
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
    link_use(fd);
    is_call = true;
    return true;
}

bool link_is_call(void)
{
    return is_call;
}

bool link_call_again(void)
{
    close(link_fd());
    link_use(-1);
    for (int tries = 0; tries < GUEST_TRIES; tries++) {
        if (call_host())
            return true;
        usleep(1000);
    }
    return false;
}

void link_open(const char *name)
{
    for (int tries = 0; tries < GUEST_TRIES && !open_port(name) && !call_host(); tries++)
        usleep(1000); /* the host announces it some time after its driver is there */
}
