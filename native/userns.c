#include "userns.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "job.h"
#include "sys.h"

#define WORDS 64       /* of a map: 20 ranges */
#define PATIENCE_S 10  /* that newuidmap has, whatever it asks for user names */
#define SAID 160

struct mapper {
    pid_t pid;
    int go, said; /* it starts once `go` gets a byte, and complains to `said` */
};

static void close_one(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

/* newuidmap PID INSIDE OUTSIDE COUNT...: https://man7.org/linux/man-pages/man1/newuidmap.1.html */
static _Noreturn void map(const char *program, const char *words, pid_t pid, int go, int said)
{
    static char copy[1024];
    char number[16], byte, *argv[WORDS + 3], *rest = NULL;
    char *const environment[] = {"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C", NULL};
    int count = 0;
    snprintf(number, sizeof number, "%d", (int)pid);
    snprintf(copy, sizeof copy, "%s", words);
    argv[count++] = (char *)program;
    argv[count++] = number;
    for (char *word = strtok_r(copy, " ", &rest); word != NULL && count < WORDS + 2; word = strtok_r(NULL, " ", &rest))
        argv[count++] = word;
    argv[count] = NULL;
    int nothing = open("/dev/null", O_RDWR | O_CLOEXEC);
    if (prctl(PR_SET_PDEATHSIG, SIGKILL) != 0 || getppid() != pid || read(go, &byte, 1) != 1 || nothing < 0 ||
        dup2(nothing, 0) < 0 || dup2(nothing, 1) < 0 || dup2(said, 2) < 0)
        _exit(126);
    job_reset_signals();
    alarm(PATIENCE_S);
    execve(program, argv, environment);
    dprintf(2, "%s", strerror(errno));
    _exit(127);
}

static int mapper_start(struct mapper *mapper, const char *program, const char *words)
{
    int go[2] = {-1, -1}, said[2] = {-1, -1};
    pid_t self = getpid();
    mapper->pid = -1;
    if (pipe2(go, O_CLOEXEC) == 0 && pipe2(said, O_CLOEXEC) == 0)
        mapper->pid = fork();
    if (mapper->pid == 0) {
        close(go[1]);
        map(program, words, self, go[0], said[1]);
    }
    int error = errno;
    close_one(&go[0]);
    close_one(&said[1]);
    mapper->go = go[1];
    mapper->said = said[0];
    errno = error;
    return mapper->pid < 0 ? -1 : 0;
}

/* Whether it has mapped; what it said otherwise. Without a byte before it only goes away. */
static int mapper_end(struct mapper *mapper, char *said, size_t size)
{
    int status = -1;
    ssize_t got = 0;
    close_one(&mapper->go);
    if (mapper->pid > 0) {
        while ((got = read(mapper->said, said, size - 1)) < 0 && errno == EINTR)
            ;
        while (waitpid(mapper->pid, &status, 0) < 0 && errno == EINTR)
            ;
    }
    close_one(&mapper->said);
    said[got > 0 ? got : 0] = 0;
    said[strcspn(said, "\n")] = 0;
    return status == 0 ? 0 : -1;
}

static int fail(char *what, size_t size, int error, const char *text, const char *said)
{
    snprintf(what, size, "%s%s%s", text, *said != 0 ? ": " : "", said);
    errno = error;
    return -1;
}

int userns_enter(const struct userns *userns, int others, char *what, size_t size)
{
    struct mapper mappers[2];
    char said[2][SAID] = {"", ""};
    int started = mapper_start(&mappers[0], userns->newuidmap, userns->uid_map);
    started |= mapper_start(&mappers[1], userns->newgidmap, userns->gid_map);
    int error = errno, entered = started == 0 ? unshare(CLONE_NEWUSER | others) : -1;
    if (started == 0 && entered != 0)
        error = errno;
    for (int i = 0; i < 2 && entered == 0; i++)
        if (write(mappers[i].go, "", 1) != 1)
            error = errno;
    int wrong[2];
    for (int i = 0; i < 2; i++)
        wrong[i] = mapper_end(&mappers[i], said[i], sizeof said[i]);
    if (started != 0)
        return fail(what, size, error, "cannot fork for newuidmap", "");
    if (entered != 0)
        return fail(what, size, error, "cannot make a user namespace", "");
    if (wrong[0] != 0)
        return fail(what, size, 0, "newuidmap failed", said[0]);
    if (wrong[1] != 0)
        return fail(what, size, 0, "newgidmap failed", said[1]);
    return 0;
}

int mode_userns(char **argv)
{
    char what[256];
    struct userns userns = {argv[0], argv[1], argv[2], argv[3]};
    if (userns_enter(&userns, CLONE_NEWNS, what, sizeof what) != 0) {
        dprintf(2, "dms-shim: %s%s%s\n", what, errno != 0 ? ": " : "", errno != 0 ? strerror(errno) : "");
        return 125;
    }
    extern char **environ;
    execve(argv[4], argv + 4, environ);
    dprintf(2, "dms-shim: cannot execute %s: %s\n", argv[4], strerror(errno));
    return 127;
}
