/* The guest's one interface, where it has one: the monitor's own network, whose addresses the host chose. */
#include <arpa/inet.h>
#include <errno.h>
#include <net/if.h>
#include <net/route.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "frame.h"
#include "guest.h"
#include "sys.h"

#define NAME "eth0"

static struct sockaddr address_of(const uint8_t *bytes)
{
    struct sockaddr_in address = {.sin_family = AF_INET};
    struct sockaddr plain;
    if (bytes != NULL)
        memcpy(&address.sin_addr, bytes, 4);
    memcpy(&plain, &address, sizeof plain);
    return plain;
}

static int up(int fd, const char *name)
{
    struct ifreq request = {.ifr_flags = IFF_UP | IFF_RUNNING};
    snprintf(request.ifr_name, sizeof request.ifr_name, "%s", name);
    return ioctl(fd, SIOCSIFFLAGS, &request);
}

/* https://man7.org/linux/man-pages/man7/netdevice.7.html */
static int connect_to(int fd, const uint8_t *network)
{
    struct ifreq address = {.ifr_name = NAME, .ifr_addr = address_of(network)};
    struct ifreq mask = {.ifr_name = NAME, .ifr_netmask = address_of(network + 4)};
    struct ifreq mtu = {.ifr_name = NAME, .ifr_mtu = (int)get_u32(network + 12)};
    struct rtentry route = {
        .rt_dst = address_of(NULL),
        .rt_genmask = address_of(NULL),
        .rt_gateway = address_of(network + 8),
        .rt_flags = RTF_UP | RTF_GATEWAY,
    };
    if (mtu.ifr_mtu != 0 && ioctl(fd, SIOCSIFMTU, &mtu) != 0)
        return -1;
    return ioctl(fd, SIOCSIFADDR, &address) != 0 || ioctl(fd, SIOCSIFNETMASK, &mask) != 0 || up(fd, NAME) != 0 ||
                   ioctl(fd, SIOCADDRT, &route) != 0
               ? -1
               : 0;
}

const char *guest_network_up(const struct guest_config *config)
{
    static const char failed[] = "cannot connect the network";
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return config->network == NULL ? NULL : failed; /* a kernel without a network has none */
    up(fd, "lo");
    int result = 0;
    if (config->network != NULL) {
        /* As Docker sets them: port 80 and ping take no capability. */
        sys_write_file("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0", 1);
        sys_write_file("/proc/sys/net/ipv4/ping_group_range", "0 2147483647", 12);
        /* And whom the host's loopback leads to ours, where our monitor's namespace has none (vm_way.c). */
        sys_write_file("/proc/sys/net/ipv4/conf/all/route_localnet", "1", 1);
        result = guest_wait_for("/sys/class/net/" NAME) != 0 ? -1 : connect_to(fd, config->network);
    }
    close(fd);
    return result != 0 ? failed : NULL;
}
