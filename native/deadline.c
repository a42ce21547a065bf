#include "deadline.h"

#include <signal.h>
#include <stdio.h>
#include <sys/time.h>

static unsigned long long limit, grace;
static bool is_set, has_come;

bool deadline_set(const char *text)
{
    char rest;
    is_set = sscanf(text, "%llu:%llu%c", &limit, &grace, &rest) == 2;
    return is_set;
}

/* All zeros would disarm it. */
static void arm(unsigned long long milliseconds)
{
    struct itimerval value = {.it_value = {.tv_sec = (time_t)(milliseconds / 1000),
                                           .tv_usec = (suseconds_t)(milliseconds % 1000 * 1000)}};
    if (milliseconds == 0)
        value.it_value.tv_usec = 1;
    setitimer(ITIMER_REAL, &value, NULL);
}

void deadline_begin(void)
{
    if (is_set)
        arm(limit);
}

/* The kernel's own: a job may send an ALRM, too, which is passed on to itself as any other. */
int deadline_due(const struct signalfd_siginfo *info)
{
    if (!is_set || info->ssi_signo != SIGALRM || info->ssi_code != SI_KERNEL)
        return 0;
    if (has_come)
        return SIGKILL;
    has_come = true;
    arm(grace);
    return SIGTERM;
}
