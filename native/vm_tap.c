#include "vm_tap.h"

#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "vmm.h"

/* https://docs.kernel.org/networking/tuntap.html */
int vm_tap_make(const char *name, uid_t owner, const char *network)
{
    struct ifreq request = {.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR};
    snprintf(request.ifr_name, sizeof request.ifr_name, "%s", name);
    if ((network != NULL ? vmm_enter_network(network) : unshare(CLONE_NEWNET)) != 0)
        return -1;
    int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC);
    if (fd < 0)
        return -1;
    bool made = ioctl(fd, TUNSETIFF, &request) == 0 && ioctl(fd, TUNSETOWNER, (unsigned long)owner) == 0 &&
                ioctl(fd, TUNSETPERSIST, 1) == 0;
    close(fd);
    int any = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    request.ifr_flags = IFF_UP;
    made = made && any >= 0 && ioctl(any, SIOCSIFFLAGS, &request) == 0;
    if (any >= 0)
        close(any);
    return made ? 0 : -1;
}
