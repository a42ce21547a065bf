#include "sending.h"

#include "deadline.h"

#include <errno.h>
#include <limits.h>
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
    if (number == 0 && *signum == '0')
        return sigqueue(1, DEADLINE_ASKED, (union sigval){.sival_int = DEADLINE_WITHDRAWN}) == 0 ? 0 : 1;
    long long left = grace != NULL ? atoll(grace) : -1;
    if (number < 1 || number > 64)
        return 2;
    if (number == SIGKILL || left == 0)
        return kill_all();
    /* The grace is kept by pid 1, which is alone in not being killed by what it lets go. Where that cannot be asked, since
     * a job has filled the queue of its user's signals, it has done with its grace. */
    if (left > 0 && sigqueue(1, DEADLINE_ASKED, (union sigval){.sival_int = left < INT_MAX ? (int)left : INT_MAX}) != 0)
        return kill_all();
    return kill(1, number) == 0 ? 0 : 1;
}

int sending_await(const sigset_t *all)
{
    const struct timespec most = {.tv_sec = UNASKED};
    siginfo_t info;
    for (;;) {
        int signum = sigtimedwait(all, &info, &most);
        if (signum < 0 && errno == EAGAIN)
            return -1;
        if (signum == DEADLINE_ASKED && info.si_code == SI_QUEUE && info.si_value.sival_int == DEADLINE_WITHDRAWN)
            return signum;
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

bool sending_is_news(const struct signalfd_siginfo *info)
{
    static bool told;
    if (told || info->ssi_signo == SIGCHLD || info->ssi_code != SI_USER || info->ssi_pid != 0)
        return false;
    return told = true;
}
