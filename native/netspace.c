#include "netspace.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "complain.h"
#include "sys.h"

/* Where clouds tell a machine its secrets: the host's route to them is not the job's. */
static const struct {
    int family;
    const char *address;
    unsigned char bits;
} CLOSED[] = {{AF_INET, "169.254.0.0", 16}, {AF_INET6, "fd00:ec2::254", 128}, {AF_INET6, "fd20:ce::254", 128}};

static int loopback_up(void)
{
    struct ifreq request = {.ifr_name = "lo", .ifr_flags = IFF_UP | IFF_RUNNING};
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    int result = fd < 0 ? -1 : ioctl(fd, SIOCSIFFLAGS, &request);
    if (fd >= 0)
        close(fd);
    return result;
}

/* https://man7.org/linux/man-pages/man7/rtnetlink.7.html */
static int close_route(int netlink, int family, const char *address, unsigned char bits)
{
    struct {
        struct nlmsghdr header;
        struct rtmsg route;
        struct rtattr destination;
        unsigned char bytes[16];
    } request = {
        .header = {.nlmsg_type = RTM_NEWROUTE, .nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL},
        .route = {.rtm_family = (unsigned char)family, .rtm_dst_len = bits, .rtm_table = RT_TABLE_MAIN,
                  .rtm_protocol = RTPROT_STATIC, .rtm_scope = RT_SCOPE_UNIVERSE, .rtm_type = RTN_UNREACHABLE},
        .destination = {.rta_type = RTA_DST},
    };
    struct {
        struct nlmsghdr header;
        struct nlmsgerr error;
        char rest[256];
    } answer;
    size_t size = family == AF_INET ? 4 : 16;
    if (inet_pton(family, address, request.bytes) != 1)
        return -1;
    request.destination.rta_len = (unsigned short)RTA_LENGTH(size);
    request.header.nlmsg_len = (uint32_t)(NLMSG_LENGTH(sizeof request.route) + RTA_LENGTH(size));
    if (send(netlink, &request, request.header.nlmsg_len, 0) < 0)
        return -1;
    ssize_t got = recv(netlink, &answer, sizeof answer, 0);
    if (got < (ssize_t)NLMSG_LENGTH(sizeof answer.error) || answer.header.nlmsg_type != NLMSG_ERROR) {
        errno = EPROTO;
        return -1;
    }
    errno = -answer.error.error;
    return answer.error.error == 0 ? 0 : -1;
}

static int close_routes(void)
{
    int netlink = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE), result = netlink < 0 ? -1 : 0;
    for (size_t i = 0; result == 0 && i < sizeof CLOSED / sizeof *CLOSED; i++) {
        result = close_route(netlink, CLOSED[i].family, CLOSED[i].address, CLOSED[i].bits);
        /* A kernel without IPv6 has nothing to close; everything else is no detail. */
        if (result != 0 && CLOSED[i].family == AF_INET6 && access("/proc/sys/net/ipv6", F_OK) != 0)
            result = 0;
    }
    return result;
}

/* As Docker sets them: port 80 and ping take no capability, which a job could not have in a namespace of ours. */
static void set_defaults(void)
{
    static const char ports[] = "/proc/sys/net/ipv4/ip_unprivileged_port_start";
    static const char ping[] = "/proc/sys/net/ipv4/ping_group_range";
    if (sys_write_file(ports, "0", 1) != 0)
        complain("cannot write %s: %m", ports);
    /* Ids that our user namespace lacks are refused. */
    if (sys_write_file(ping, "0 2147483647", 12) != 0 && sys_write_file(ping, "0 65535", 7) != 0 &&
        sys_write_file(ping, "0 0", 3) != 0)
        complain("cannot write %s: %m", ping);
}

static int make(const char *pin, const char *sysfs)
{
    if (unshare(CLONE_NEWNET) != 0 || loopback_up() != 0 || close_routes() != 0)
        return -1;
    set_defaults();
    if (mount("/proc/self/ns/net", pin, NULL, MS_BIND, NULL) != 0)
        return -1;
    if (sysfs != NULL &&
        mount("sysfs", sysfs, "sysfs", MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL) != 0)
        return -1;
    return 0;
}

int netspace_make(const char *pin, const char *sysfs)
{
    pid_t self = getpid(), child = fork();
    if (child < 0)
        return -1;
    if (child == 0) {
        if (prctl(PR_SET_PDEATHSIG, SIGKILL) != 0 || getppid() != self)
            _exit(ESRCH);
        _exit(make(pin, sysfs) == 0 ? 0 : errno & 0xff);
    }
    int status;
    while (waitpid(child, &status, 0) < 0)
        if (errno != EINTR)
            return -1;
    errno = WIFEXITED(status) ? WEXITSTATUS(status) : EINTR;
    return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? 0 : -1;
}
