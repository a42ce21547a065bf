#include "timers.h"

#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include "complain.h"
#include "sys.h"

static uint64_t deadline[TIMERS]; /* CLOCK_BOOTTIME ns, 0: unset */
static int timer_fd = -1;

int timers_open(void)
{
    /* CLOCK_BOOTTIME: a laptop's sleep counts towards a job's timeout. */
    timer_fd = timerfd_create(CLOCK_BOOTTIME, TFD_NONBLOCK | TFD_CLOEXEC);
    return timer_fd;
}

static void arm(void)
{
    uint64_t first = 0;
    for (int i = 0; i < TIMERS; i++)
        if (deadline[i] != 0 && (first == 0 || deadline[i] < first))
            first = deadline[i];
    struct itimerspec when = {.it_value = {.tv_sec = (time_t)(first / 1000000000u), .tv_nsec = (long)(first % 1000000000u)}};
    if (timerfd_settime(timer_fd, TFD_TIMER_ABSTIME, &when, NULL) != 0)
        complain("timerfd_settime: %m");
}

void timer_set(enum timer timer, uint64_t ms)
{
    deadline[timer] = sys_boottime() + ms * 1000000u;
    arm();
}

void timer_sooner(enum timer timer, uint64_t ms)
{
    if (deadline[timer] == 0 || sys_boottime() + ms * 1000000u < deadline[timer])
        timer_set(timer, ms);
}

void timer_clear(enum timer timer)
{
    if (deadline[timer] == 0)
        return;
    deadline[timer] = 0;
    arm();
}

void timers_run(void (*due)(enum timer timer))
{
    uint64_t expirations;
    if (read(timer_fd, &expirations, sizeof expirations) < 0)
        return;
    uint64_t now = sys_boottime();
    for (int i = 0; i < TIMERS; i++) {
        if (deadline[i] == 0 || deadline[i] > now)
            continue;
        deadline[i] = 0;
        due((enum timer)i);
    }
    arm();
}
