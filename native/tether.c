/* `dms-shim tether ARGV...`: a helper command that cannot outlive whoever asked for it. */
#include "modes.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include "job.h"

enum { TETHER = 3, CANNOT_EXECUTE = 127 };

static pid_t spawn(char **argv, pid_t self)
{
    pid_t pid = fork();
    if (pid != 0)
        return pid;
    setpgid(0, 0);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != self)
        _exit(CANNOT_EXECUTE);
    job_reset_signals();
    extern char **environ;
    execve(argv[0], argv, environ);
    dprintf(2, "dms-shim: cannot execute %s: %s\n", argv[0], strerror(errno));
    _exit(CANNOT_EXECUTE);
}

static int code_of(int status)
{
    return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

int mode_tether(char **argv)
{
    sigset_t all, child;
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, NULL);
    sigemptyset(&child);
    sigaddset(&child, SIGCHLD);
    int signals = signalfd(-1, &child, SFD_CLOEXEC | SFD_NONBLOCK);
    fcntl(TETHER, F_SETFD, FD_CLOEXEC);
    pid_t pid = spawn(argv, getpid());
    if (pid < 0 || signals < 0)
        return CANNOT_EXECUTE;
    setpgid(pid, pid); /* by both, whoever is first: the group must exist before it may be killed */
    struct pollfd waited[2] = {{.fd = TETHER, .events = POLLIN}, {.fd = signals, .events = POLLIN}};
    for (;;) {
        int status;
        struct signalfd_siginfo info;
        if (poll(waited, 2, -1) < 0 && errno != EINTR)
            return CANNOT_EXECUTE;
        if (waited[0].revents != 0) {
            kill(-pid, SIGKILL);
            waited[0].fd = -1;
            waited[0].revents = 0;
        }
        while (read(signals, &info, sizeof info) > 0)
            ;
        if (waitpid(pid, &status, WNOHANG) == pid) {
            /* What it left in its group would hold our caller's pipes open. */
            kill(-pid, SIGKILL);
            return code_of(status);
        }
    }
}
