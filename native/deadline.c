#include "deadline.h"

#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/timerfd.h>
#include <unistd.h>

static unsigned long long limit, grace; /* ms */
static bool is_set, in_grace;
static int timer = -1;

bool deadline_set(const char *text)
{
    char rest;
    is_set = sscanf(text, "%llu:%llu%c", &limit, &grace, &rest) == 2;
    return is_set;
}

static bool arm(unsigned long long milliseconds)
{
    struct itimerspec value = {.it_value = {.tv_sec = (time_t)(milliseconds / 1000),
                                            .tv_nsec = (long)(milliseconds % 1000) * 1000000}};
    if (milliseconds == 0)
        value.it_value.tv_nsec = 1; /* all zeros would disarm it */
    if (timer < 0)
        timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    return timer >= 0 && timerfd_settime(timer, 0, &value, NULL) == 0;
}

bool deadline_begin(void)
{
    return !is_set || in_grace || arm(limit);
}

int deadline_timer(void)
{
    return timer;
}

bool deadline_asked(const struct signalfd_siginfo *info)
{
    if (info->ssi_signo != DEADLINE_ASKED || info->ssi_code != SI_QUEUE || info->ssi_int < 0)
        return false;
    unsigned long long asked = (unsigned long long)info->ssi_int;
    struct itimerspec left;
    if (timer >= 0 && timerfd_gettime(timer, &left) == 0 && (left.it_value.tv_sec != 0 || left.it_value.tv_nsec != 0)) {
        unsigned long long until = (unsigned long long)left.it_value.tv_sec * 1000 +
                                   (unsigned long long)left.it_value.tv_nsec / 1000000 + (in_grace ? 0 : grace);
        if (until < asked)
            asked = until;
    }
    in_grace = true;
    if (!arm(asked))
        kill(-1, SIGKILL); /* who cannot keep a grace gives none */
    return true;
}

int deadline_due(void)
{
    uint64_t times;
    if (read(timer, &times, sizeof times) != sizeof times)
        return 0;
    if (in_grace)
        return SIGKILL;
    in_grace = true;
    if (!arm(grace))
        return SIGKILL;
    return SIGTERM;
}
