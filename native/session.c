#include "session.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "clients.h"
#include "complain.h"
#include "job.h"
#include "open.h"
#include "shim.h"
#include "sys.h"
#include "timers.h"

#define SESSIONS (CLIENT_SLOTS - 1)
#define TICK_MS 5
#define PATIENCE 400      /* ticks; what a frozen job holds back dies when it goes on */
#define FREEZE_LOOKS 40   /* of 50 us, until version 1 has frozen all */
#define ALONE 100         /* ticks that an init without a group of its own has for killing its children itself */
#define GUEST 1600        /* ticks that a guest has for it, whose command is its own init here */
#define DEPTH 16          /* of processes between the shim and a session's first one */
#define PREFIX "exec-"

enum { REPORT = 3, GROUP }; /* descriptors of the command */

struct session {
    bool used, ending;
    int client; /* -1: it has left */
    pid_t runtime, init;
    int runtime_status, init_status; /* as of wait(2), -1 unknown */
    unsigned number, ticks;          /* of its control group, 0: none; spent in ending it */
};

static struct session sessions[SESSIONS];
static unsigned last_number;
static char parent[PATH_MAX - 64]; /* the job's control group, in which each session has its own; room for a file there */

static struct session *of_client(int client)
{
    for (int i = 0; i < SESSIONS; i++)
        if (sessions[i].used && sessions[i].client == client)
            return &sessions[i];
    return NULL;
}

bool sessions_are_open(void)
{
    for (int i = 0; i < SESSIONS; i++)
        if (sessions[i].used)
            return true;
    return false;
}

static void refuse(int client, int error, const char *text)
{
    uint8_t bytes[4 + FRAME_TEXT_MAX];
    client_send(client, FRAME_ERROR, bytes, error_payload(bytes, error, text));
}

/* A file of the session's control group; empty: the folder itself. */
static void path_of(const struct session *it, const char *file, char *out)
{
    snprintf(out, PATH_MAX, "%s/" PREFIX "%u%s%s", parent, it->number, *file ? "/" : "", file);
}

static bool write_in(const struct session *it, const char *file, const char *text)
{
    char path[PATH_MAX];
    path_of(it, file, path);
    return sys_write_file(path, text, strlen(text)) == 0;
}

static int make_group(struct session *it, const char *group)
{
    char path[PATH_MAX];
    if (*group == 0)
        return 0;
    if (strlen(group) >= sizeof parent) {
        errno = ENAMETOOLONG;
        return -1;
    }
    strcpy(parent, group);
    sessions_sweep();
    it->number = ++last_number;
    path_of(it, "", path);
    if (mkdir(path, 0755) == 0)
        return 0;
    it->number = 0;
    return -1;
}

/* The file by which the session's init moves itself. In version 1 it is that of threads, which a thread can write itself
 * into without the lock that costs a grace period (cgroup_procs_write_start in kernel/cgroup/cgroup.c). */
static int open_group(const struct session *it)
{
    char path[PATH_MAX];
    path_of(it, "tasks", path);
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd >= 0 || errno != ENOENT)
        return fd;
    path_of(it, "cgroup.procs", path);
    return open(path, O_WRONLY | O_CLOEXEC);
}

/* The runtime moves the new process into the job's groups. The first move takes a grace period of the kernel's, some
 * 10 ms, in which it waits; one of ours begins that now, while the runtime comes up. It must not outlive its use. */
static void begin_grace_period(const struct session *it)
{
    pid_t self = getpid();
    if (fork() != 0)
        return; /* without it all goes on, later */
    sys_close_from(0); /* its copies would hold streams and connections open */
    if (prctl(PR_SET_PDEATHSIG, SIGKILL) == 0 && getppid() == self)
        write_in(it, "cgroup.procs", "0");
    _exit(0);
}

static bool job_runs(void)
{
    return shim.phase == PHASE_RUNNING && !shim.job_reported && !shim.init_gone;
}

/* With its group behind the report socket, for the init. */
static pid_t spawn_runtime(const struct session *it, char **argv, const int *fds, int count)
{
    int placed[OPEN_FDS + 1], group;
    if (it->number == 0)
        return job_spawn_plain(argv, shim.config.env, fds, count);
    if (count <= REPORT || (group = open_group(it)) < 0)
        return -1;
    memcpy(placed, fds, GROUP * sizeof *fds);
    placed[GROUP] = group;
    memcpy(placed + GROUP + 1, fds + GROUP, (size_t)(count - GROUP) * sizeof *fds);
    begin_grace_period(it);
    pid_t pid = job_spawn_plain(argv, shim.config.env, placed, count + 1);
    int error = errno;
    close(group);
    errno = error;
    return pid;
}

void session_open(int client, const struct frame *frame, const int *fds, int count)
{
    static uint8_t payload[OPEN_MOST];
    struct open_request request;
    struct session *it = NULL;
    memcpy(payload, frame->payload, frame->length);
    if (count < 3 || !open_parse(payload, frame->length, &request)) {
        refuse(client, EINVAL, "OPEN is not valid");
        return;
    }
    if (!job_runs()) {
        refuse(client, ESRCH, "the job does not run");
        return;
    }
    for (int i = 0; i < SESSIONS && it == NULL; i++)
        if (!sessions[i].used)
            it = &sessions[i];
    if (it == NULL || of_client(client) != NULL) {
        refuse(client, EBUSY, "too many sessions");
        return;
    }
    *it = (struct session){.client = client, .runtime_status = -1, .init_status = -1};
    if (make_group(it, request.group) != 0) {
        refuse(client, errno, "cannot make a control group for the command");
        return;
    }
    pid_t pid = spawn_runtime(it, request.argv, fds, count);
    if (pid < 0) {
        refuse(client, errno, "cannot execute the runtime");
        sessions_sweep();
        return;
    }
    it->used = true;
    it->runtime = pid;
    client_send(client, FRAME_OK, NULL, 0);
}

/* Whoever it is, it is a process of this job, so that no stranger can be moved and killed. */
static bool is_descendant(pid_t pid)
{
    for (int level = 0; level < DEPTH && pid > 1; level++) {
        /* At ourselves: the runtime above it has ended since the last look, and its children are ours now. */
        if (job_is_child(pid) || (level > 0 && pid == getpid()))
            return true;
        pid = sys_parent(pid);
    }
    return false;
}

static bool is_in_group(const struct session *it, pid_t pid)
{
    char path[PATH_MAX], line[32];
    bool found = false;
    path_of(it, "cgroup.procs", path);
    FILE *file = fopen(path, "re");
    while (file != NULL && !found && fgets(line, sizeof line, file) != NULL)
        found = strtol(line, NULL, 10) == pid;
    if (file != NULL)
        fclose(file);
    return found;
}

void session_enter(int client, pid_t pid)
{
    struct session *it = of_client(client);
    char text[16];
    if (it == NULL || it->ending || !is_descendant(pid)) {
        refuse(client, ESRCH, "no such process of the session");
        return;
    }
    it->init = pid;
    snprintf(text, sizeof text, "%d", (int)pid);
    if (it->number != 0 && !is_in_group(it, pid) && !write_in(it, "cgroup.procs", text)) {
        refuse(client, errno, "cannot move the command into its control group");
        return;
    }
    client_send(client, FRAME_OK, NULL, 0);
}

static void kill_listed(const struct session *it)
{
    char path[PATH_MAX], line[32];
    path_of(it, "cgroup.procs", path);
    FILE *file = fopen(path, "re");
    if (file == NULL)
        return;
    while (fgets(line, sizeof line, file) != NULL) {
        long pid = strtol(line, NULL, 10);
        if (pid > 1 && pid != getpid())
            kill((pid_t)pid, SIGKILL);
    }
    fclose(file);
}

/* Version 1 freezes in its own time: https://docs.kernel.org/admin-guide/cgroup-v1/freezer-subsystem.html */
static void await_frozen(const struct session *it)
{
    char path[PATH_MAX], state[16];
    struct timespec moment = {.tv_nsec = 50 * 1000};
    path_of(it, "freezer.state", path);
    for (int look = 0; look < FREEZE_LOOKS; look++) {
        if (sys_read_file(AT_FDCWD, path, state, sizeof state) <= 0 || strncmp(state, "FROZEN", 6) == 0)
            return;
        nanosleep(&moment, NULL);
    }
}

/* All of the group at once, so that none can fork away meanwhile: the kernel's own kill (version 2, Linux 5.14), or
 * standing still. */
static void kill_group(const struct session *it)
{
    if (write_in(it, "cgroup.kill", "1"))
        return;
    bool is_v1 = write_in(it, "freezer.state", "FROZEN");
    if (is_v1)
        await_frozen(it);
    else
        write_in(it, "cgroup.freeze", "1");
    kill_listed(it);
    if (is_v1)
        write_in(it, "freezer.state", "THAWED");
    else
        write_in(it, "cgroup.freeze", "0");
}

static bool group_gone(struct session *it)
{
    char path[PATH_MAX];
    if (it->number == 0)
        return true;
    path_of(it, "", path);
    if (rmdir(path) != 0 && errno != ENOENT)
        return false;
    it->number = 0;
    return true;
}

static void finish(struct session *it)
{
    uint8_t closed[8];
    put_u32(closed, (uint32_t)it->init_status);
    put_u32(closed + 4, (uint32_t)it->runtime_status);
    it->used = false; /* first: a client that is dropped for not reading must not find it */
    if (it->client >= 0)
        client_send(it->client, FRAME_CLOSED, closed, sizeof closed);
}

static void go_on(struct session *it)
{
    bool in_guest = it->number == 0 && it->runtime != 0 && it->runtime == it->init;
    unsigned most = in_guest ? GUEST : PATIENCE;
    if (it->runtime != 0 && (!in_guest || it->ticks >= most))
        kill(it->runtime, SIGKILL);
    if (it->number != 0)
        kill_group(it);
    else if (it->init != 0 && !in_guest && it->ticks >= ALONE)
        kill(it->init, SIGKILL);
    bool gone = group_gone(it) && it->runtime == 0 && it->init == 0;
    if (gone || it->ticks++ >= most)
        finish(it);
    else
        timer_sooner(TIMER_SESSIONS, TICK_MS);
}

void session_close(int client, bool kill_all)
{
    struct session *it = of_client(client);
    if (it == NULL) {
        refuse(client, ESRCH, "no such session");
        return;
    }
    if (it->ending)
        return;
    if (kill_all) {
        it->ending = true;
        go_on(it);
        return;
    }
    group_gone(it); /* what it left in the background lives on, and its group with it */
    finish(it);
}

void session_client_left(int client)
{
    struct session *it = of_client(client);
    if (it == NULL)
        return;
    it->client = -1;
    if (!it->ending) {
        it->ending = true;
        go_on(it);
    }
}

void session_reaped(pid_t pid, int status)
{
    for (int i = 0; i < SESSIONS; i++) {
        struct session *it = &sessions[i];
        if (!it->used || (it->runtime != pid && it->init != pid))
            continue;
        if (it->runtime == pid) {
            it->runtime = 0;
            it->runtime_status = status;
        }
        if (it->init == pid) { /* of a microVM it is the same process */
            it->init = 0;
            it->init_status = status;
        }
        if (it->ending)
            go_on(it);
    }
}

void sessions_tick(void)
{
    for (int i = 0; i < SESSIONS; i++)
        if (sessions[i].used && sessions[i].ending)
            go_on(&sessions[i]);
}

static bool in_use(unsigned number)
{
    for (int i = 0; i < SESSIONS; i++)
        if (sessions[i].used && sessions[i].number == number)
            return true;
    return false;
}

void sessions_sweep(void)
{
    DIR *folder = parent[0] != 0 ? opendir(parent) : NULL;
    struct dirent *entry;
    if (folder == NULL)
        return;
    while ((entry = readdir(folder)) != NULL) {
        if (strncmp(entry->d_name, PREFIX, strlen(PREFIX)) != 0)
            continue;
        if (in_use((unsigned)strtoul(entry->d_name + strlen(PREFIX), NULL, 10)) && shim.phase != PHASE_ENDING)
            continue;
        unlinkat(dirfd(folder), entry->d_name, AT_REMOVEDIR); /* busy: something lives on in it */
    }
    closedir(folder);
}
