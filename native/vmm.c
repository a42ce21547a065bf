#include "vmm.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "sys.h"

#define CONSOLE_MOST (256u * 1024u) /* of the file: a guest may talk for ever */
#define LAST 512u

static char last[LAST];
static size_t last_length;
static size_t written;
static int file = -1;

int vmm_enter_network(const char *path)
{
    int namespace = open(path, O_RDONLY | O_CLOEXEC);
    int result = namespace < 0 ? -1 : setns(namespace, CLONE_NEWNET), error = errno;
    if (namespace >= 0)
        close(namespace);
    errno = error;
    return result;
}

static void join_network(const char *path)
{
    if (path == NULL || vmm_enter_network(path) == 0)
        return;
    dprintf(2, "cannot enter the network namespace: %s\n", strerror(errno));
    _exit(126);
}

static void become(const struct vmm_owner *owner)
{
    if (owner->uid == 0)
        return;
    if (setgroups(owner->group != 0 ? 1 : 0, &owner->group) != 0 || setresgid(owner->gid, owner->gid, owner->gid) != 0 ||
        setresuid(owner->uid, owner->uid, owner->uid) != 0)
        _exit(126);
}

/* `ends`: of channel and console, -1 where there is none, of what it says, and of its commands, -1 likewise. */
static _Noreturn void child(char **argv, const struct vmm_owner *owner, const char *folder, const int *ends, pid_t parent)
{
    struct sigaction defaults = {.sa_handler = SIG_DFL};
    sigset_t none;
    int nothing = open("/dev/null", O_RDONLY);
    if (nothing < 0 || dup2(nothing, 0) < 0 || dup2(ends[2], 1) < 0 || dup2(ends[2], 2) < 0 ||
        (ends[0] >= 0 && (dup2(ends[0], VMM_CHANNEL) < 0 || dup2(ends[1], VMM_CONSOLE) < 0)) ||
        (ends[3] >= 0 && dup2(ends[3], VMM_MONITOR) < 0))
        _exit(126);
    if (folder != NULL && chdir(folder) != 0)
        _exit(126);
    close(nothing > VMM_CONSOLE ? nothing : -1);
    for (int signum = 1; signum < NSIG; signum++)
        sigaction(signum, &defaults, NULL);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    join_network(owner->network);
    become(owner);
    /* After the change of ids, which takes the signal back (prctl(2), PR_SET_PDEATHSIG). */
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 || prctl(PR_SET_PDEATHSIG, SIGKILL) != 0 || getppid() != parent)
        _exit(126);
    execv(argv[0], argv);
    dprintf(2, "%s: %s\n", argv[0], strerror(errno));
    _exit(127);
}

/* A pair of stream sockets: ours does not block, theirs is out of the way of the numbers that the child places. */
static int pair(int *ours, int *theirs)
{
    int ends[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0 || fcntl(ends[0], F_SETFL, O_NONBLOCK) != 0)
        return -1;
    *ours = ends[0];
    *theirs = sys_move_fd(ends[1], 200);
    return *theirs < 0 ? -1 : 0;
}

/* By the opened folder: the path of a socket has 107 bytes at most (unix(7)). */
static int listen_at(const struct vmm_place *place)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int folder = open(place->folder != NULL ? place->folder : ".", O_PATH | O_DIRECTORY | O_CLOEXEC);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    snprintf(address.sun_path, sizeof address.sun_path, "/proc/self/fd/%d/%s", folder, place->socket);
    mode_t before = umask(0077);
    bool made = folder >= 0 && fd >= 0 && bind(fd, (struct sockaddr *)&address, sizeof address) == 0 &&
                fchownat(folder, place->socket, place->caller, place->caller, AT_SYMLINK_NOFOLLOW) == 0 && listen(fd, 1) == 0;
    umask(before);
    if (folder >= 0)
        close(folder);
    return made ? fd : -1;
}

int vmm_start(struct vmm *vmm, char **argv, const struct vmm_owner *owner, const struct vmm_place *place, bool wants_channel)
{
    int words[2], ends[4] = {-1, -1, -1, -1};
    pid_t self = getpid();
    vmm->channel = vmm->listening = vmm->console = vmm->monitor = -1;
    if (pipe2(words, O_CLOEXEC) != 0 || fcntl(words[0], F_SETFL, O_NONBLOCK) != 0 || (ends[2] = sys_move_fd(words[1], 200)) < 0)
        return -1;
    vmm->words = words[0];
    if (wants_channel && place->socket != NULL) {
        if ((vmm->listening = listen_at(place)) < 0)
            return -1;
    } else if (wants_channel && (pair(&vmm->channel, &ends[0]) != 0 || pair(&vmm->console, &ends[1]) != 0)) {
        return -1;
    }
    if (place->monitored && pair(&vmm->monitor, &ends[3]) != 0)
        return -1;
    vmm->pid = fork();
    if (vmm->pid == 0)
        child(argv, owner, place->folder, ends, self);
    if (vmm->pid < 0)
        return -1;
    for (int i = 0; i < 4; i++)
        if (ends[i] >= 0)
            close(ends[i]);
    return 0;
}

int vmm_listen_anew(struct vmm *vmm, const struct vmm_place *place)
{
    int folder = open(place->folder != NULL ? place->folder : ".", O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (folder < 0)
        return -1;
    unlinkat(folder, place->socket, 0);
    close(folder);
    vmm->listening = listen_at(place);
    return vmm->listening < 0 ? -1 : 0;
}

void vmm_accept(struct vmm *vmm)
{
    vmm->channel = accept4(vmm->listening, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (vmm->channel < 0)
        return;
    close(vmm->listening);
    vmm->listening = -1;
}

/* Behind what another life of the same guest has said. */
static int open_console(int folder)
{
    struct stat status;
    int fd = openat(folder, "console", O_WRONLY | O_CREAT | O_APPEND | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd >= 0 && fstat(fd, &status) == 0)
        written = (size_t)status.st_size < CONSOLE_MOST ? (size_t)status.st_size : CONSOLE_MOST;
    return fd;
}

void vmm_keep(const char *text, size_t length, int folder)
{
    if (file < 0 && written == 0)
        file = open_console(folder);
    size_t part = length < CONSOLE_MOST - written ? length : CONSOLE_MOST - written;
    if (file >= 0 && part > 0 && sys_write_all(file, text, part) == 0)
        written += part;
    if (length > LAST) {
        text += length - LAST;
        length = LAST;
    }
    if (last_length + length > LAST) {
        size_t drop = last_length + length - LAST;
        memmove(last, last + drop, last_length - drop);
        last_length -= drop;
    }
    memcpy(last + last_length, text, length);
    last_length += length;
}

void vmm_listen(int *fd, int folder)
{
    char text[4096];
    ssize_t got = read(*fd, text, sizeof text);
    if (got > 0) {
        vmm_keep(text, (size_t)got, folder);
        return;
    }
    if (got < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    close(*fd);
    *fd = -1;
}

void vmm_listen_to_the_end(int *fd, int folder)
{
    while (*fd >= 0) {
        struct pollfd waited = {.fd = *fd, .events = POLLIN};
        if (poll(&waited, 1, 1000) <= 0)
            return;
        vmm_listen(fd, folder);
    }
}

const char *vmm_last_words(void)
{
    static char line[LAST + 1];
    size_t end = last_length, begin;
    while (end > 0 && (last[end - 1] == '\n' || last[end - 1] == '\r'))
        end--;
    for (begin = end; begin > 0 && last[begin - 1] != '\n'; begin--)
        ;
    for (size_t i = begin; i < end; i++)
        line[i - begin] = last[i] >= ' ' && last[i] <= '~' ? last[i] : '?';
    line[end - begin] = 0;
    return line;
}

void vmm_kill(struct vmm *vmm)
{
    if (vmm->pid == 0)
        return;
    kill(vmm->pid, SIGKILL);
    while (waitpid(vmm->pid, &vmm->status, 0) < 0 && errno == EINTR)
        ;
    vmm->pid = 0;
}

void vmm_reap(struct vmm *vmm, int signals)
{
    struct signalfd_siginfo info;
    while (read(signals, &info, sizeof info) == sizeof info)
        ;
    if (vmm->pid != 0 && waitpid(vmm->pid, &vmm->status, WNOHANG) == vmm->pid)
        vmm->pid = 0;
}
