#include "seccomp.h"

#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <unistd.h>

#define MOST_INSTRUCTIONS 4096 /* BPF_MAXINSNS of linux/bpf_common.h */

int seccomp_install(int fd)
{
    static struct sock_filter filter[MOST_INSTRUCTIONS + 1]; /* one more, so that too long shows */
    size_t have = 0;
    ssize_t got = 0;
    while (have < sizeof filter) {
        got = read(fd, (char *)filter + have, sizeof filter - have);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            break;
        have += (size_t)got;
    }
    if (got < 0)
        return -1;
    close(fd);
    size_t count = have / sizeof *filter;
    if (have % sizeof *filter != 0 || count == 0 || count > MOST_INSTRUCTIONS) {
        errno = EINVAL;
        return -1;
    }
    struct sock_fprog program = {.len = (unsigned short)count, .filter = filter};
    return prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program);
}
