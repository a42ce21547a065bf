/* Copies of a running job's files: the modes `look`, `pack` and `unpack` of dms-shim (docs/protocol.md, section 8), and
 * `read`, run beside the job with its view of files. A helper counts as the job's, and is the first to give way where
 * that has no memory left. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "files.h"
#include "frame.h"
#include "guest.h"
#include "modes.h"
#include "sys.h"

#define READ_MOST (1u << 20) /* of one file */
#define NO_FILE UINT32_MAX

/* A small file's bytes behind their number, NO_FILE where there is no such file. */
static void put_file(const char *path)
{
    static uint8_t bytes[4 + READ_MOST];
    struct stat status;
    size_t length = 0;
    ssize_t got = -1;
    int fd = open(path, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
    if (fd >= 0 && fstat(fd, &status) == 0 && S_ISREG(status.st_mode))
        while (length < READ_MOST && (got = read(fd, bytes + 4 + length, READ_MOST - length)) > 0)
            length += (size_t)got;
    put_u32(bytes, got < 0 ? NO_FILE : (uint32_t)length);
    if (sys_write_all(1, bytes, got < 0 ? 4 : 4 + length) != 0)
        files_die(path);
    if (fd >= 0)
        close(fd);
}

static int mode_read(char **paths)
{
    files_begin(true);
    for (; *paths != NULL; paths++)
        put_file(*paths);
    return 0;
}

static int run(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[0], "look") == 0)
        return mode_look(argv + 1);
    if (argc > 1 && strcmp(argv[0], "pack") == 0)
        return mode_pack(argv + 1);
    if (argc > 1 && strcmp(argv[0], "unpack") == 0)
        return mode_unpack(argc, argv);
    if (argc > 1 && strcmp(argv[0], "read") == 0)
        return mode_read(argv + 1);
    return 2;
}

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
    _exit(run((int)config->argc, (char **)config->argv));
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
