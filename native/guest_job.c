#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <grp.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "frame.h"
#include "guest.h"
#include "sys.h"

enum { REPORT = 3, SCRIPTS = 4, FILTER = 5, PLACES = 6 };

#define FOLDER "/dev/.dms-executor-scripts"

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

/* Of a root process nothing but this counts at its execve; anybody else has none then. capabilities(7). */
static void bound(uint64_t capabilities)
{
    for (unsigned cap = 0; prctl(PR_CAPBSET_READ, cap, 0, 0, 0) >= 0; cap++)
        if (!(capabilities >> cap & 1) && prctl(PR_CAPBSET_DROP, cap, 0, 0, 0) != 0)
            give_up("cannot drop capabilities");
}

static void limit_files(void)
{
    struct rlimit files = {1024, 524288}, core = {0, 0};
    if (setrlimit(RLIMIT_NOFILE, &files) != 0 || setrlimit(RLIMIT_CORE, &core) != 0)
        give_up("cannot set resource limits");
}

/* Made as root where it is missing, as Docker does. */
static void enter_directory(const char *path)
{
    char part[4096];
    for (const char *end = strchr(path + 1, '/');; end = strchr(end + 1, '/')) {
        size_t length = end == NULL ? strlen(path) : (size_t)(end - path);
        if (length >= sizeof part)
            break;
        memcpy(part, path, length);
        part[length] = 0;
        mkdir(part, 0755);
        if (end == NULL)
            break;
    }
    if (chdir(path) != 0)
        give_up("cannot enter the working directory");
}

static void become_user(const struct guest_config *config)
{
    if (setgroups(config->group_count, config->groups) != 0 || setresgid(config->gid, config->gid, config->gid) != 0)
        give_up("cannot set the job's groups");
    bound(config->capabilities);
    if (setresuid(config->uid, config->uid, config->uid) != 0)
        give_up("cannot become the job's user");
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0)
        give_up("cannot give up new privileges");
}

static void place(const int sources[PLACES])
{
    for (int i = 0; i < PLACES; i++)
        if (sources[i] >= 0 && dup2(sources[i], i) < 0)
            _exit(126);
}

static _Noreturn void execute(const struct guest_config *config, int init)
{
    static char *argv[GUEST_ARGS + 16];
    size_t count = 0;
    argv[count++] = (char *)"dms-init";
    if (config->terminal != NULL) {
        argv[count++] = (char *)"-t";
        argv[count++] = (char *)config->terminal;
    }
    if (config->filter_length > 0) {
        argv[count++] = (char *)"-s";
        argv[count++] = (char *)"5";
    }
    if (config->scripts_length > 0) {
        argv[count++] = (char *)"-p";
        argv[count++] = (char *)"4";
        argv[count++] = (char *)FOLDER;
    }
    argv[count++] = (char *)"--";
    memcpy(argv + count, config->argv, (config->argc + 1) * sizeof *argv);
    syscall(SYS_execveat, init, "", argv, config->env, AT_EMPTY_PATH);
    give_up("cannot execute the job's init");
}

/* All five of them are this process's to enter; its next child is in the job's pid namespace. setns(2) */
static void enter_job(pid_t init)
{
    int job = sys_pidfd_open(init);
    if (job < 0 || setns(job, CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWCGROUP) != 0)
        give_up("cannot enter the job's namespaces");
    close(job);
}

static _Noreturn void command(const struct guest_config *config, const int sources[PLACES], int init, pid_t job, unsigned group, int told)
{
    char path[64];
    sigset_t none;
    place(sources);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    snprintf(path, sizeof path, GUEST_CGROUP "/exec-%u/cgroup.procs", group);
    if (sys_write_file(path, "0", 1) != 0)
        give_up("cannot join the command's control group");
    sys_write_file("/proc/self/oom_score_adj", "0", 1);
    enter_job(job);
    pid_t pid = (pid_t)syscall(SYS_clone, CLONE_PARENT | SIGCHLD, 0, 0, 0, 0);
    if (pid < 0)
        give_up("cannot fork");
    if (pid > 0) {
        sys_write_all(told, &pid, sizeof pid);
        _exit(0);
    }
    umask(0022);
    limit_files();
    if (chdir(config->directory) != 0)
        give_up("cannot enter the working directory");
    become_user(config);
    execute(config, init);
}

static _Noreturn void child(const struct guest_config *config, const int sources[PLACES], int init)
{
    const char *problem;
    sigset_t none;
    place(sources);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    /* Before its namespace is made, whose root this group then is. */
    if (sys_write_file(GUEST_CGROUP "/cgroup.procs", "0", 1) != 0 || unshare(CLONE_NEWCGROUP) != 0)
        give_up("cannot join the job's control group");
    sys_write_file("/proc/self/oom_score_adj", "0", 1);
    if (sethostname(config->hostname, strlen(config->hostname)) != 0)
        give_up("cannot set the host name");
    if ((problem = guest_root_enter(config)) != NULL)
        give_up(problem);
    umask(0022);
    limit_files();
    enter_directory(config->directory);
    become_user(config);
    execute(config, init);
}

static int in_memory(const uint8_t *bytes, size_t length)
{
    int fd = memfd_create("told", MFD_CLOEXEC);
    return fd < 0 || sys_write_all(fd, bytes, length) != 0 || lseek(fd, 0, SEEK_SET) != 0 ? -1 : fd;
}

/* Above the numbers that a child gives them. */
static const char *move(int *fds, int count)
{
    for (int i = 0; i < count; i++)
        if (fds[i] >= 0 && (fds[i] = sys_move_fd(fds[i], GUEST_FROM)) < 0)
            return "cannot make the job's streams";
    return NULL;
}

static int open_output(const struct guest_config *config, int *kept, int *given)
{
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) != 0)
        return -1;
    *kept = ends[0];
    *given = ends[1];
    return fcntl(ends[0], F_SETFL, O_NONBLOCK) != 0 ? -1 : fchown(ends[1], config->uid, config->gid);
}

static int open_input(const struct guest_config *config, int *kept, int *given)
{
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) != 0)
        return -1;
    *given = ends[0];
    *kept = ends[1];
    return fcntl(ends[1], F_SETFL, O_NONBLOCK) != 0 ? -1 : fchown(ends[0], config->uid, config->gid);
}

const char *guest_streams_open(const struct guest_config *config, struct guest_job *job, int sources[3])
{
    static const char problem[] = "cannot make the job's streams";
    bool terminal = config->terminal != NULL; /* the init makes it, and hands it over */
    if (terminal || !(config->flags & GUEST_INPUT))
        sources[0] = open("/dev/null", O_RDONLY | O_CLOEXEC);
    else if (open_input(config, &job->input, &sources[0]) != 0)
        return problem;
    for (int i = 0; i < 2; i++)
        if (terminal)
            sources[1 + i] = open("/dev/null", O_WRONLY | O_CLOEXEC);
        else if (open_output(config, &job->streams[i], &sources[1 + i]) != 0)
            return problem;
    return move(sources, 3);
}

/* All that both kinds of process need; `sources` are the descriptors that they get, above those numbers. */
static const char *prepare(const struct guest_config *config, struct guest_job *job, int sources[PLACES], int *init)
{
    int report[2];
    *init = sys_move_fd(open("/dms-init", O_RDONLY | O_CLOEXEC), GUEST_FROM);
    if (*init < 0)
        return "cannot find the job's init";
    const char *problem = guest_streams_open(config, job, sources);
    if (problem != NULL)
        return problem;
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, report) != 0)
        return "cannot make the report";
    sources[REPORT] = report[1];
    if (config->scripts_length > 0 && (sources[SCRIPTS] = in_memory(config->scripts, config->scripts_length)) < 0)
        return "cannot keep the provision scripts";
    if (config->filter_length > 0 && (sources[FILTER] = in_memory(config->filter, config->filter_length)) < 0)
        return "cannot keep the seccomp filter";
    job->report = report[0];
    return move(sources + REPORT, PLACES - REPORT);
}

static void give_away(const int sources[PLACES], int init)
{
    for (int i = 0; i < PLACES; i++)
        if (sources[i] >= 0)
            close(sources[i]);
    if (init >= 0)
        close(init);
}

const char *guest_job_start(const struct guest_config *config, struct guest_job *job)
{
    int sources[PLACES] = {-1, -1, -1, -1, -1, -1}, init;
    const char *problem = prepare(config, job, sources, &init);
    if (problem != NULL)
        return problem;
    if ((problem = guest_network_up(config)) != NULL) {
        give_away(sources, init);
        return problem;
    }
    job->init = (pid_t)syscall(SYS_clone, CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWUTS | SIGCHLD, 0, 0, 0, 0);
    if (job->init == 0)
        child(config, sources, init);
    give_away(sources, init);
    return job->init < 0 ? "cannot make the job's namespaces" : NULL;
}

const char *guest_command_start(const struct guest_config *config, pid_t init, unsigned group, struct guest_job *job)
{
    int sources[PLACES] = {-1, -1, -1, -1, -1, -1}, program, told[2];
    pid_t pid = 0;
    const char *problem = prepare(config, job, sources, &program);
    if (problem == NULL && pipe2(told, O_CLOEXEC) != 0)
        problem = "cannot make a pipe";
    if (problem != NULL) {
        give_away(sources, program);
        return problem;
    }
    pid_t between = fork();
    if (between == 0)
        command(config, sources, program, init, group, told[1]);
    give_away(sources, program);
    close(told[1]);
    /* Without it the report says why. */
    job->init = read(told[0], &pid, sizeof pid) == sizeof pid ? pid : 0;
    close(told[0]);
    return between < 0 ? "cannot fork" : NULL;
}
