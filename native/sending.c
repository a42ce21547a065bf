#include "sending.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

enum { UNASKED = 600 }; /* s; whoever made the container is gone for good */

/* Pid 1 cannot be killed from inside: all that it has started can, and it reports how its job ended. */
static int kill_all(void)
{
    return kill(-1, SIGKILL) == 0 || errno == ESRCH ? 0 : 1;
}

int sending(const char *signum, const char *grace)
{
    int number = atoi(signum);
    long long left = grace != NULL ? atoll(grace) : -1;
    if (number < 1 || number > 64)
        return 2;
    if (number == SIGKILL || left == 0)
        return kill_all();
    if (kill(1, number) != 0)
        return 1;
    if (left < 0)
        return 0;
    /* The grace is kept here, in the container, whoever asked for it: it ends with the container. */
    pid_t keeper = fork();
    if (keeper != 0)
        return keeper < 0 ? 1 : 0;
    setsid();
    for (int fd = 0; fd < 3; fd++)
        close(fd);
    struct timespec rest = {.tv_sec = (time_t)(left / 1000), .tv_nsec = (long)(left % 1000) * 1000000};
    while (nanosleep(&rest, &rest) != 0 && errno == EINTR)
        ;
    return kill_all();
}

int sending_await(const sigset_t *all)
{
    const struct timespec most = {.tv_sec = UNASKED};
    for (;;) {
        int signum = sigtimedwait(all, NULL, &most);
        if (signum < 0 && errno == EAGAIN)
            return -1;
        if (signum == SIGCONT)
            return 0;
        if (signum == SIGTERM || signum == SIGINT || signum == SIGHUP || signum == SIGQUIT)
            return signum;
    }
}

bool sending_ends_by_default(int signum)
{
    return signum != SIGCHLD && signum != SIGCONT && signum != SIGURG && signum != SIGWINCH && signum != SIGTSTP &&
           signum != SIGTTIN && signum != SIGTTOU;
}
