#include "deadline.h"

#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

static unsigned long long limit, grace; /* ms */
static bool is_set;
static uint64_t limit_at, kill_at; /* ns of the monotonic clock, 0: none */
static int timer = -1;

bool deadline_set(const char *text)
{
    char rest;
    is_set = sscanf(text, "%llu:%llu%c", &limit, &grace, &rest) == 2;
    return is_set;
}

static uint64_t after(unsigned long long milliseconds)
{
    struct timespec now = {0};
    clock_gettime(CLOCK_MONOTONIC, &now);
    uint64_t begin = (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
    return milliseconds > ((uint64_t)INT64_MAX - begin) / 1000000u ? (uint64_t)INT64_MAX : begin + milliseconds * 1000000u;
}

static void kill_after(unsigned long long milliseconds)
{
    uint64_t then = after(milliseconds);
    kill_at = kill_at == 0 || then < kill_at ? then : kill_at;
}

/* At what comes first. */
static bool arm(void)
{
    uint64_t next = kill_at != 0 && (limit_at == 0 || kill_at < limit_at) ? kill_at : limit_at;
    struct itimerspec value = {.it_value = {.tv_sec = (time_t)(next / 1000000000u), .tv_nsec = (long)(next % 1000000000u)}};
    if (next == 0)
        return true;
    if (timer < 0)
        timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    return timer >= 0 && timerfd_settime(timer, TFD_TIMER_ABSTIME, &value, NULL) == 0;
}

bool deadline_begin(void)
{
    if (is_set)
        limit_at = after(limit);
    return arm();
}

int deadline_timer(void)
{
    return timer;
}

/* Who asks is not looked at, since nothing is won by it: the job itself can only bring its end nearer, and what is said of
 * its timeout stands. */
bool deadline_asked(const struct signalfd_siginfo *info)
{
    if (info->ssi_signo != DEADLINE_ASKED || info->ssi_code != SI_QUEUE)
        return false;
    if (info->ssi_int == DEADLINE_WITHDRAWN) /* it has been let go before */
        return true;
    if (info->ssi_int < 0)
        return false;
    kill_after((unsigned long long)info->ssi_int);
    if (!arm())
        kill(-1, SIGKILL); /* who cannot keep a grace gives none */
    return true;
}

int deadline_due(void)
{
    uint64_t times, now = after(0);
    if (read(timer, &times, sizeof times) != sizeof times)
        return 0;
    if (limit_at == 0 || now < limit_at)
        return kill_at != 0 && now >= kill_at ? SIGKILL : arm() ? 0 : SIGKILL;
    limit_at = 0;
    kill_after(grace);
    return arm() ? SIGTERM : SIGKILL;
}
