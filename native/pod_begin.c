#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "frame.h"
#include "pod.h"
#include "sys.h"

enum { REPORT = 3, PLACES = 4 };

/* Both programs lie in one folder. */
static bool find_init(char *path, size_t size)
{
    ssize_t length = readlink("/proc/self/exe", path, size - 1);
    path[length > 0 ? length : 0] = 0;
    char *slash = strrchr(path, '/');
    return slash != NULL && snprintf(slash + 1, size - (size_t)(slash + 1 - path), "dms-init") == 8;
}

static int open_pipe(int *ours, int *theirs, int our_end)
{
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) != 0)
        return -1;
    *ours = ends[our_end];
    *theirs = sys_move_fd(ends[1 - our_end], GUEST_FROM);
    /* For whatever user a job's init may make of the command. */
    return *theirs < 0 ? -1 : fcntl(*ours, F_SETFL, O_NONBLOCK);
}

static const char *open_streams(const struct guest_config *config, struct guest_job *job, int sources[PLACES])
{
    bool terminal = config->terminal != NULL; /* the init makes it, and hands it over */
    if (terminal)
        for (int i = 0; i < 3; i++)
            sources[i] = sys_move_fd(open("/dev/null", O_RDWR | O_CLOEXEC), GUEST_FROM);
    else if (open_pipe(&job->input, &sources[0], 1) != 0 || open_pipe(&job->streams[0], &sources[1], 0) != 0 ||
             open_pipe(&job->streams[1], &sources[2], 0) != 0)
        return "cannot make the command's streams";
    return NULL;
}

static void give_away(const int sources[PLACES])
{
    for (int i = 0; i < PLACES; i++)
        if (sources[i] >= 0)
            close(sources[i]);
}

static void take_places(const int sources[PLACES])
{
    sigset_t none;
    for (int i = 0; i < PLACES; i++)
        if (sources[i] >= 0)
            dup2(sources[i], i);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
}

/* As an init says it. */
static _Noreturn void give_up(const char *what)
{
    uint8_t bytes[FRAME_HEADER + 4 + FRAME_TEXT_MAX];
    int error = errno;
    size_t length = strlen(what) < FRAME_TEXT_MAX ? strlen(what) : FRAME_TEXT_MAX;
    frame_header(bytes, FRAME_INIT_FAILED, (uint32_t)(4 + length));
    put_u32(bytes + FRAME_HEADER, (uint32_t)error);
    memcpy(bytes + FRAME_HEADER + 4, what, length);
    sys_write_all(REPORT, bytes, FRAME_HEADER + 4 + length);
    _exit(126);
}

static _Noreturn void become_init(const struct guest_config *config, const int sources[PLACES], char *init)
{
    static char *argv[GUEST_ARGS + 6];
    size_t count = 0;
    take_places(sources);
    argv[count++] = init;
    argv[count++] = "-e";
    if (config->terminal != NULL) {
        argv[count++] = "-t";
        argv[count++] = (char *)config->terminal;
    }
    argv[count++] = "--";
    memcpy(argv + count, config->argv, config->argc * sizeof *argv);
    for (size_t i = 0; i < config->envc; i++)
        putenv(config->env[i]);
    if (chdir(config->directory) != 0)
        give_up(config->directory);
    execv(init, argv);
    give_up(init);
}

const char *pod_command(const struct guest_config *config, struct guest_job *command)
{
    static char init[4096];
    int sources[PLACES] = {-1, -1, -1, -1}, report[2];
    if (!find_init(init, sizeof init))
        return "cannot find the command's init";
    const char *problem = open_streams(config, command, sources);
    if (problem != NULL)
        return problem;
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, report) != 0)
        return "cannot make the report";
    command->report = report[0];
    sources[REPORT] = sys_move_fd(report[1], GUEST_FROM);
    command->init = fork();
    if (command->init == 0)
        become_init(config, sources, init);
    give_away(sources);
    return command->init < 0 ? "cannot fork" : NULL;
}

const char *pod_helper(const struct guest_config *config, struct guest_job *helper)
{
    int sources[PLACES] = {-1, -1, -1, -1};
    const char *problem = open_streams(config, helper, sources);
    if (problem != NULL)
        return problem;
    helper->init = fork();
    if (helper->init == 0) {
        take_places(sources);
        /* The first to give way where the job has no memory left; it counts as the job's. The file of one that is not
         * dumpable is root's. */
        prctl(PR_SET_DUMPABLE, 1);
        sys_write_file("/proc/self/oom_score_adj", "1000", 4);
        prctl(PR_SET_DUMPABLE, 0);
        _exit(guest_mode((int)config->argc, (char **)config->argv, false));
    }
    give_away(sources);
    return helper->init < 0 ? "cannot fork" : NULL;
}

/* -1: nobody reads it. */
static int open_fifo(int folder, const char *name)
{
    struct stat status;
    int fd = openat(folder, name, O_WRONLY | O_NONBLOCK | O_NOFOLLOW | O_CLOEXEC);
    if (fd >= 0 && (fstat(fd, &status) != 0 || !S_ISFIFO(status.st_mode))) {
        close(fd);
        return -1;
    }
    return fd;
}

const char *pod_attach(const struct guest_config *config, struct guest_job *input, int *control)
{
    int folder = open(config->argv[0], O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (folder < 0 && errno == ENOENT) { /* a job without an open input has no such folder: there is output alone */
        input->input = *control = -1;
        return NULL;
    }
    if (folder < 0)
        return "cannot find the job's input";
    input->input = open_fifo(folder, "stdin");
    *control = open_fifo(folder, "control");
    close(folder);
    return NULL;
}
