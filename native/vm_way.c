/* The address moves from the program's interface to the guest, and the kernel forwards between the two, answering for
 * either to the other (proxy ARP). Nothing is rewritten, so neither a packet filter is needed nor a bridge, which many
 * kernels have as a module or not at all; and the routes that are closed in the namespace are closed to the guest.
 *
 * Whom pasta takes from the host's loopback it does not send by its interface: it connects them inside the namespace, to
 * the address that its interface had or, before 2024, to the loopback. So the namespace has an address of its own to
 * connect from, and its loopback's leads to the guest as well, which takes it (guest_network.c). */
#include "vm_way.h"

#include <arpa/inet.h>
#include <errno.h>
#include <net/if.h>
#include <net/route.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "sys.h"

static struct sockaddr address_of(struct in_addr found)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr = found};
    struct sockaddr plain;
    memcpy(&plain, &address, sizeof plain);
    return plain;
}

static int set(const char *family, const char *interface, const char *name, const char *value)
{
    char path[128];
    snprintf(path, sizeof path, "/proc/sys/net/%s/%.15s/%s", family, interface, name);
    return sys_write_file(path, value, 1);
}

/* https://man7.org/linux/man-pages/man7/netdevice.7.html */
static int set_address(int fd, unsigned long what, const char *interface, struct in_addr address)
{
    struct ifreq request = {.ifr_addr = address_of(address)};
    snprintf(request.ifr_name, sizeof request.ifr_name, "%s", interface);
    return ioctl(fd, what, &request);
}

/* The routes of those that go go with them. */
static int set_addresses(int fd, const char *tap, const char *interface, struct in_addr own)
{
    struct in_addr none = {0}, whole = {INADDR_NONE};
    return set_address(fd, SIOCSIFADDR, interface, none) != 0 || set_address(fd, SIOCSIFADDR, "lo", none) != 0 ||
                   set_address(fd, SIOCSIFADDR, tap, own) != 0 || set_address(fd, SIOCSIFNETMASK, tap, whole) != 0
               ? -1
               : 0;
}

/* Else what fits the one is too large for the other, and is told so to a program that does not listen. */
static int match_mtu(int fd, const char *tap, const char *interface)
{
    struct ifreq request;
    snprintf(request.ifr_name, sizeof request.ifr_name, "%s", interface);
    if (ioctl(fd, SIOCGIFMTU, &request) != 0)
        return -1;
    snprintf(request.ifr_name, sizeof request.ifr_name, "%s", tap);
    return ioctl(fd, SIOCSIFMTU, &request);
}

static int lead(int fd, struct in_addr to, struct in_addr mask, const struct in_addr *gateway, const char *interface)
{
    char name[IFNAMSIZ];
    struct rtentry route = {
        .rt_dst = address_of(to),
        .rt_genmask = address_of(mask),
        .rt_flags = (unsigned short)(RTF_UP | (gateway != NULL ? RTF_GATEWAY : 0)),
        .rt_dev = name,
    };
    if (gateway != NULL)
        route.rt_gateway = address_of(*gateway);
    snprintf(name, sizeof name, "%s", interface);
    return ioctl(fd, SIOCADDRT, &route);
}

static int lead_all(int fd, const char *tap, const char *interface, const struct in_addr *given)
{
    struct in_addr guest = given[VM_WAY_ADDRESS], mask = given[VM_WAY_MASK], net = {guest.s_addr & mask.s_addr};
    struct in_addr whole = {INADDR_NONE}, all = {0}, loopback = {htonl(INADDR_LOOPBACK)};
    return lead(fd, net, mask, NULL, interface) != 0 ||
                   lead(fd, all, all, &given[VM_WAY_GATEWAY], interface) != 0 ||
                   lead(fd, guest, whole, NULL, tap) != 0 || lead(fd, loopback, whole, &guest, tap) != 0
               ? -1
               : 0;
}

/* https://docs.kernel.org/networking/ip-sysctl.html. Whoever asks is answered at once: there is one of each. */
static int forward(const char *tap, const char *interface)
{
    const char *both[] = {tap, interface};
    for (int i = 0; i < 2; i++)
        if (set("ipv4/conf", both[i], "proxy_arp", "1") != 0 || set("ipv4/neigh", both[i], "proxy_delay", "0") != 0)
            return -1;
    /* Of IPv6 the guest has nothing, and nothing of the kernel's here is to answer it; there may be none. */
    if (set("ipv6/conf", tap, "disable_ipv6", "1") != 0 && errno != ENOENT)
        return -1;
    return set("ipv4/conf", tap, "route_localnet", "1") != 0 ? -1 : sys_write_file("/proc/sys/net/ipv4/ip_forward", "1", 1);
}

int vm_way_make(const char *tap, const char *interface, char *const given[VM_WAY_WORDS])
{
    struct in_addr found[VM_WAY_WORDS];
    errno = EINVAL;
    for (int i = 0; i < VM_WAY_WORDS; i++)
        if (inet_pton(AF_INET, given[i], &found[i]) != 1)
            return -1;
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -1;
    bool made = match_mtu(fd, tap, interface) == 0 && set_addresses(fd, tap, interface, found[VM_WAY_OWN]) == 0 &&
                lead_all(fd, tap, interface, found) == 0 && forward(tap, interface) == 0;
    int error = errno;
    close(fd);
    errno = error;
    return made ? 0 : -1;
}
