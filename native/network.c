#include "network.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "complain.h"
#include "job.h"
#include "netspace.h"
#include "sys.h"

#define READY_MS 10000
#define WORDS_FILE "network.log" /* what the program says, in the execution's folder */
#define PID_FILE "network.pid"
#define WORDS_MAX (64 * 1024)
#define READY_FD 3

static pid_t helper;

pid_t network_pid(void)
{
    return helper;
}

static int place(const struct config *config, const char *name, char *path, size_t size)
{
    int length = snprintf(path, size, "%s/%s", config->room, name);
    errno = ENAMETOOLONG;
    return length > 0 && (size_t)length < size ? 0 : -1;
}

static int make_namespace(const struct config *config)
{
    char pin[PATH_MAX], sysfs[PATH_MAX];
    if (place(config, config->network_pin, pin, sizeof pin) != 0)
        return -1;
    int fd = open(pin, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0)
        return -1;
    close(fd);
    if (config->network_sysfs == NULL)
        return netspace_make(pin, NULL);
    if (place(config, config->network_sysfs, sysfs, sizeof sysfs) != 0 || mkdir(sysfs, 0755) != 0)
        return -1;
    return netspace_make(pin, sysfs);
}

/* Our caller's control groups are not ours: as for us (leave_cgroups in run.c), or a restart of its service would take
 * the job's network. */
static int leave_groups(const struct config *config)
{
    for (size_t i = 0; i < config->cgroup_joins; i++)
        if (sys_write_file(config->cgroup_join[i], "0", 1) != 0)
            return -1;
    return 0;
}

static void child(const struct config *config, int folder, const char *fifo, pid_t parent)
{
    struct rlimit words = {WORDS_MAX, WORDS_MAX};
    if (prctl(PR_SET_PDEATHSIG, SIGKILL) != 0)
        return;
    if (getppid() != parent)
        _exit(127);
    int nothing = open("/dev/null", O_RDWR | O_CLOEXEC);
    int said = openat(folder, WORDS_FILE, O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (nothing < 0 || said < 0 || leave_groups(config) != 0)
        return;
    int ready = open(fifo, O_WRONLY | O_CLOEXEC);
    /* Its folder is ours, so that it may be told a socket's place by its name alone. */
    if (ready < 0 || fchdir(folder) != 0 || (ready = sys_move_fd(ready, 10)) < 0)
        return;
    if (dup2(nothing, 0) < 0 || dup2(said, 1) < 0 || dup2(said, 2) < 0 || dup2(ready, READY_FD) < 0)
        return;
    job_reset_signals();
    /* A file that is full is no reason to die. */
    signal(SIGXFSZ, SIG_IGN);
    if (setrlimit(RLIMIT_FSIZE, &words) != 0)
        return;
    umask(0077);
    execve(config->network_argv[0], config->network_argv, config->env);
}

static void last_words(int folder, char *out, size_t size)
{
    char text[2048];
    ssize_t length = sys_read_file(folder, WORDS_FILE, text, sizeof text);
    while (length > 0 && (text[length - 1] == '\n' || text[length - 1] == ' '))
        text[--length] = 0;
    for (ssize_t i = 0; i < length; i++)
        if ((unsigned char)text[i] < ' ')
            text[i] = ' ';
    size_t most = size - 1;
    const char *from = length > (ssize_t)most ? text + length - most : text;
    snprintf(out, size, "%.*s", (int)most, length > 0 ? from : "it said nothing");
}

static int failed(int folder, const char *why, int error, char *what, size_t size)
{
    char said[400];
    last_words(folder, said, sizeof said);
    network_down();
    snprintf(what, size, "the network program %s: %s", why, said);
    errno = error;
    return -1;
}

static int wait_ready(int fifo, int folder, char *what, size_t size)
{
    int ended = sys_pidfd_open(helper);
    struct pollfd waited[2] = {{.fd = fifo, .events = POLLIN}, {.fd = ended, .events = POLLIN}};
    uint64_t deadline = sys_boottime() + READY_MS * 1000000ull;
    int result = -1, error = ETIMEDOUT;
    for (;;) {
        uint64_t now = sys_boottime();
        char byte[32];
        if (now >= deadline)
            break;
        int count = poll(waited, ended < 0 ? 1 : 2, (int)((deadline - now) / 1000000) + 1);
        if (count < 0 && errno != EINTR)
            break;
        if (waited[0].revents & POLLIN && read(fifo, byte, sizeof byte) > 0) {
            result = 0;
            break;
        }
        /* It closed its end without a word, or is gone. */
        if (waited[0].revents & POLLHUP || waited[1].revents != 0) {
            error = 0;
            break;
        }
    }
    if (ended >= 0)
        close(ended);
    if (result == 0)
        return 0;
    return failed(folder, error == 0 ? "ended" : "did not get ready", error, what, size);
}

/* For whoever clears up after us, should it outlive us after all: boot id, pid and start time. */
static void write_pid(int folder)
{
    char path[32], text[512], boot[64], line[160], *end;
    snprintf(path, sizeof path, "/proc/%d/stat", (int)helper);
    uint64_t start = 0;
    if (sys_read_file(AT_FDCWD, path, text, sizeof text) > 0 && (end = strrchr(text, ')')) != NULL) {
        /* Field 22; the name ended field 2 (proc(5)). */
        for (int field = 2; field < 22 && end != NULL; field++)
            end = strchr(end + 1, ' ');
        start = end != NULL ? strtoull(end, NULL, 10) : 0;
    }
    if (sys_read_file(AT_FDCWD, "/proc/sys/kernel/random/boot_id", boot, sizeof boot) <= 0)
        boot[0] = 0;
    boot[strcspn(boot, "\n")] = 0;
    int length = snprintf(line, sizeof line, "%s %d %llu\n", boot, (int)helper, (unsigned long long)start);
    int fd = openat(folder, PID_FILE, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd < 0 || sys_write_all(fd, line, (size_t)length) != 0)
        complain("cannot write %s: %m", PID_FILE);
    if (fd >= 0)
        close(fd);
}

static int start(const struct config *config, int folder, char *what, size_t size)
{
    char path[PATH_MAX];
    int fifo = -1;
    if (place(config, config->network_ready, path, sizeof path) == 0 && mkfifo(path, 0600) == 0)
        fifo = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    pid_t self = getpid();
    helper = fifo < 0 ? -1 : fork();
    if (helper == 0) {
        child(config, folder, path, self);
        int error = errno;
        int said = openat(folder, WORDS_FILE, O_WRONLY | O_CREAT | O_APPEND | O_NOFOLLOW | O_CLOEXEC, 0600);
        if (said >= 0)
            dprintf(said, "cannot execute %s: %s\n", config->network_argv[0], strerror(error));
        _exit(127);
    }
    if (helper < 0) {
        helper = 0;
        snprintf(what, size, "cannot start the network program");
        return -1;
    }
    write_pid(folder);
    int result = wait_ready(fifo, folder, what, size);
    int error = errno;
    close(fifo);
    errno = error;
    return result;
}

int network_up(const struct config *config, int folder, char *what, size_t size)
{
    if (config->network_pin == NULL)
        return 0;
    if (make_namespace(config) != 0) {
        snprintf(what, size, "cannot make a network namespace");
        return -1;
    }
    return config->network_argc == 0 ? 0 : start(config, folder, what, size);
}

void network_down(void)
{
    if (helper == 0)
        return;
    kill(helper, SIGKILL);
    while (waitpid(helper, NULL, 0) < 0 && errno == EINTR)
        ;
    helper = 0;
}

bool network_reaped(pid_t pid, int status, bool expected)
{
    if (pid != helper || helper == 0)
        return false;
    helper = 0;
    if (expected)
        return true;
    if (WIFSIGNALED(status))
        complain("the network program was killed by signal %d: the job goes on without a network", WTERMSIG(status));
    else
        complain("the network program exited with %d: the job goes on without a network", WEXITSTATUS(status));
    return true;
}
