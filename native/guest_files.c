/* Copies of a running job's files: a mode of guest_modes.c, run beside the job with its view of files. A helper counts as
 * the job's, and is the first to give way where that has no memory left. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "frame.h"
#include "guest.h"
#include "sys.h"

static _Noreturn void helper(const struct guest_config *config, const int sources[3], int job, int go)
{
    sigset_t none;
    uint8_t byte;
    /* Not before it is in its group. */
    while (read(go, &byte, 1) < 0 && errno == EINTR)
        ;
    for (int i = 0; i < 3; i++)
        if (dup2(sources[i], i) < 0)
            _exit(126);
    if (dup2(job, 3) < 0)
        _exit(126);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    sys_write_file("/proc/self/oom_score_adj", "1000", 4);
    _exit(guest_mode((int)config->argc, (char **)config->argv, true));
}

static int join(unsigned group, pid_t pid)
{
    char path[64], text[16];
    snprintf(path, sizeof path, GUEST_CGROUP "/exec-%u/cgroup.procs", group);
    return sys_write_file(path, text, (size_t)snprintf(text, sizeof text, "%d", (int)pid));
}

const char *guest_helper_start(const struct guest_config *config, pid_t init, unsigned group, struct guest_job *job)
{
    char path[32];
    int sources[3], go[2];
    snprintf(path, sizeof path, "/proc/%d", (int)init);
    int folder = sys_move_fd(open(path, O_PATH | O_DIRECTORY | O_CLOEXEC), GUEST_FROM);
    if (folder < 0) {
        errno = ESRCH;
        return "the job has ended";
    }
    const char *problem = guest_streams_open(config, job, sources);
    if (problem == NULL && pipe2(go, O_CLOEXEC) != 0)
        problem = "cannot make a pipe";
    if (problem != NULL) {
        close(folder);
        return problem;
    }
    job->init = fork();
    if (job->init == 0) {
        close(go[1]);
        helper(config, sources, folder, go[0]);
    }
    if (job->init < 0 || join(group, job->init) != 0)
        problem = "cannot begin a copy";
    if (problem != NULL && job->init > 0)
        kill(job->init, SIGKILL);
    close(go[0]);
    close(go[1]);
    close(folder);
    for (int i = 0; i < 3; i++)
        close(sources[i]);
    return problem;
}
