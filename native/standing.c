#include "standing.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum {
    NEVER_HELD = 1800, /* s in which inputs come, and the job is let go */
    LOOKS = 5,         /* a second */
    FETCHED = 3600     /* s that a fetch which began in time may go on */
};

/* A lock is given back with its holder's last breath, whatever took that: OOM killer, SIGKILL, its runtime. */
int standing_hold(const char *path)
{
    int file = open(path, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0666);
    if (file < 0 || flock(file, LOCK_EX) != 0)
        return -1;
    return write(file, "1", 1) == 1 ? 0 : -1;
}

static void over(int signum)
{
    (void)signum;
    _exit(0);
}

static void rest(long nanoseconds, time_t seconds)
{
    struct timespec left = {.tv_sec = seconds, .tv_nsec = nanoseconds};
    while (nanosleep(&left, &left) != 0 && errno == EINTR)
        ;
}

int standing(const char *seconds, const char *path)
{
    /* Pid 1 has only the signals that it asks for; what is executed beside it and left is its to reap. */
    const struct sigaction end = {.sa_handler = over}, reap = {.sa_handler = SIG_IGN};
    struct stat status;
    long long after = atoll(seconds);
    sigaction(SIGTERM, &end, NULL);
    sigaction(SIGINT, &end, NULL);
    sigaction(SIGCHLD, &reap, NULL);
    int file = open(path, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0666);
    if (file < 0 || after < 0)
        return 1;
    for (int looks = 0; fstat(file, &status) == 0 && status.st_size == 0; looks++) {
        if (looks == NEVER_HELD * LOOKS)
            return 1; /* whoever made the pod is gone for good */
        rest(1000000000L / LOOKS, 0);
    }
    while (flock(file, LOCK_EX) != 0)
        if (errno != EINTR)
            return 1;
    rest(0, (time_t)after);
    for (int left = FETCHED * LOOKS; left > 0 && kill(-1, 0) == 0; left--)
        rest(1000000000L / LOOKS, 0);
    return 0;
}
