#include "job.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "complain.h"
#include "sys.h"

#define KILL_ROUNDS 100
#define FIRST_PASSED 4
#define MOST_PLACED (FIRST_PASSED + CONFIG_PASS) /* and more than a session's */
#define SOURCES_FROM 200 /* above every number that the child's own descriptors get */

void job_reset_signals(void)
{
    struct sigaction defaults = {.sa_handler = SIG_DFL};
    sigset_t none;
    for (int signum = 1; signum < NSIG; signum++)
        sigaction(signum, &defaults, NULL);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
}

/* Moves sources out of the way first: a descriptor to be passed may bear the number of another's place. */
static int place(int source[], int count)
{
    for (int i = 0; i < count; i++)
        if (source[i] >= 0 && (source[i] = fcntl(source[i], F_DUPFD_CLOEXEC, SOURCES_FROM)) < 0)
            return -1;
    for (int i = 0; i < count; i++)
        if (source[i] >= 0 && dup2(source[i], i) < 0)
            return -1;
    return 0;
}

static void child(char **argv, char **env, int source[], int count, pid_t parent)
{
    if (place(source, count) != 0)
        return;
    /* The runtime dies with us, so that no container starts without a shim; asked for after the fork, hence the look
     * at the parent (prctl(2), PR_SET_PDEATHSIG). */
    if (prctl(PR_SET_PDEATHSIG, SIGKILL) != 0)
        return;
    if (getppid() != parent)
        _exit(127);
    job_reset_signals();
    umask(0022); /* ours is stricter, and the caller's is no business of the job's */
    execve(argv[0], argv, env);
}

pid_t job_spawn_plain(char **argv, char **env, const int *fds, int count)
{
    int result[2], error = 0, source[MOST_PLACED];
    if (pipe2(result, O_CLOEXEC) != 0)
        return -1;
    /* Out of the way of the numbers that the child places. */
    result[1] = sys_move_fd(result[1], SOURCES_FROM);
    memcpy(source, fds, (size_t)count * sizeof *fds);
    pid_t self = getpid();
    pid_t pid = result[1] < 0 ? -1 : fork();
    if (pid == 0) {
        child(argv, env, source, count, self);
        error = errno;
        sys_write_all(result[1], &error, sizeof error);
        _exit(127);
    }
    if (pid < 0)
        error = errno;
    if (result[1] >= 0)
        close(result[1]);
    if (pid > 0 && read(result[0], &error, sizeof error) == sizeof error) {
        while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
            ;
        pid = -1;
    }
    close(result[0]);
    errno = error;
    return pid;
}

pid_t job_spawn(const struct config *config, const int out[2], int report)
{
    int source[MOST_PLACED], nothing = -1;
    if (config->stdin_fd < 0 && (nothing = open("/dev/null", O_RDONLY | O_CLOEXEC)) < 0)
        return -1;
    source[0] = config->stdin_fd >= 0 ? config->stdin_fd : nothing;
    source[1] = out[0];
    source[2] = out[1];
    source[3] = report;
    for (size_t i = 0; i < config->pass_count; i++)
        source[FIRST_PASSED + i] = config->pass[i];
    pid_t pid =
        job_spawn_plain((char **)config->argv, (char **)config->env, source, FIRST_PASSED + (int)config->pass_count);
    int error = errno;
    if (nothing >= 0)
        close(nothing);
    errno = error;
    return pid;
}

bool job_is_child(pid_t pid)
{
    siginfo_t info;
    return pid > 1 && waitid(P_PID, (id_t)pid, &info, WEXITED | WNOHANG | WNOWAIT) == 0;
}

bool job_has_others(pid_t but)
{
    siginfo_t info;
    char text[4096], *at = text, *end;
    if (waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT) != 0)
        return false;
    /* Kernels without CONFIG_PROC_CHILDREN lack this file. */
    if (but == 0 || sys_read_file(AT_FDCWD, "/proc/thread-self/children", text, sizeof text) <= 0)
        return true;
    for (long pid; (pid = strtol(at, &end, 10)), end != at; at = end)
        if (pid != but)
            return true;
    return false;
}

int job_handle(pid_t pid)
{
    return sys_pidfd_open(pid);
}

bool job_exists(int handle)
{
    return handle >= 0 && sys_pidfd_signal(handle, 0) == 0;
}

pid_t job_pidfile(int folder, const char *name)
{
    char text[32];
    if (name == NULL || sys_read_file(folder, name, text, sizeof text) <= 0)
        return 0;
    long pid = strtol(text, NULL, 10);
    return pid > 1 && pid < 0x7fffffff ? (pid_t)pid : 0;
}

bool job_kill_listed(void)
{
    char text[4096], *at = text, *end;
    /* Kernels without CONFIG_PROC_CHILDREN lack this file; a pid namespace then does the work alone. */
    if (sys_read_file(AT_FDCWD, "/proc/thread-self/children", text, sizeof text) <= 0)
        return false;
    for (;;) {
        long pid = strtol(at, &end, 10);
        if (end == at || pid <= 1)
            return true;
        at = end;
        if (job_is_child((pid_t)pid))
            kill((pid_t)pid, SIGKILL);
    }
}

void job_kill_children(void)
{
    sigset_t child;
    sigemptyset(&child);
    sigaddset(&child, SIGCHLD);
    for (int round = 0; round < KILL_ROUNDS; round++) {
        pid_t pid;
        while ((pid = waitpid(-1, NULL, WNOHANG)) > 0)
            ;
        if (pid < 0 && errno == ECHILD)
            return;
        if (!job_kill_listed())
            return;
        /* SIGCHLD is blocked and waited for, so this wakes with the first that is gone. */
        struct timespec patience = {.tv_nsec = 10 * 1000 * 1000};
        sigtimedwait(&child, NULL, &patience);
    }
    complain("some processes of the job would not die");
}
