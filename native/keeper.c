/* `dms-shim keeper [-j CGROUP_PROCS]... SECONDS ARGV...`: one command at a later time, whoever is alive then. */
#include "modes.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include "frame.h"
#include "job.h"
#include "sys.h"

#define LONGEST 3.0e9 /* seconds; a century */

/* False: who wanted a keeper is gone, and counts on none. */
static bool ready(void)
{
    uint8_t bytes[FRAME_HEADER + 16];
    frame_header(bytes, FRAME_READY, 16);
    put_u32(bytes + FRAME_HEADER, PROTOCOL_VERSION);
    put_u32(bytes + FRAME_HEADER + 4, (uint32_t)getpid());
    put_u64(bytes + FRAME_HEADER + 8, sys_start_time());
    if (send(0, bytes, sizeof bytes, MSG_NOSIGNAL) != (ssize_t)sizeof bytes)
        return false;
    /* From here on nobody holds us. */
    int nothing = open("/dev/null", O_RDWR | O_CLOEXEC);
    if (nothing < 0 || dup2(nothing, 0) < 0)
        close(0);
    return true;
}

int mode_keeper(char **argv)
{
    sigset_t all, term;
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, NULL);
    sys_close_from(3);
    for (; argv[0] != NULL && argv[1] != NULL && strcmp(argv[0], "-j") == 0; argv += 2)
        if (sys_write_file(argv[1], "0", 1) != 0)
            return 1;
    char *end = argv[0];
    double seconds = argv[0] != NULL ? strtod(argv[0], &end) : -1;
    if (argv[0] == NULL || argv[1] == NULL || *end != 0 || !(seconds >= 0) || seconds > LONGEST || detach() != 0)
        return 2;
    sigemptyset(&term);
    sigaddset(&term, SIGTERM);
    int signals = signalfd(-1, &term, SFD_CLOEXEC), timer = timerfd_create(CLOCK_BOOTTIME, TFD_CLOEXEC);
    struct itimerspec when = {.it_value = {.tv_sec = (time_t)seconds}};
    when.it_value.tv_nsec = (long)((seconds - (double)when.it_value.tv_sec) * 1e9) + 1; /* 0 would unarm it */
    if (when.it_value.tv_nsec > 999999999)
        when.it_value.tv_nsec = 999999999;
    if (signals < 0 || timer < 0 || timerfd_settime(timer, 0, &when, NULL) != 0 || chdir("/") != 0)
        return 1;
    if (!ready())
        return 1;
    struct pollfd waited[2] = {{.fd = signals, .events = POLLIN}, {.fd = timer, .events = POLLIN}};
    while (poll(waited, 2, -1) <= 0)
        ;
    if (waited[0].revents != 0)
        return 0;
    extern char **environ;
    job_reset_signals();
    execve(argv[1], argv + 1, environ);
    return 127;
}
