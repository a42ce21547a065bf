#include "vm_monitor.h"

#include <errno.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "sys.h"
#include "vm_suspend.h"

enum {
    LINE = 16384,
    ANSWER_MS = 30000, /* on a host that has no time for us */
    MOVE_MS = 1800000, /* for a guest's whole memory, on a slow disk */
};

static char lines[LINE];
static size_t have;
static bool greeted, moving, completed, failed; /* `moving` from a migration's begin until its events said its end */
static short heeded; /* on the report: POLLIN while a stop comes before what is done */

static int give_up(char *why, size_t size, int error, const char *text)
{
    snprintf(why, size, "%s", text);
    errno = error;
    return -1;
}

/* One more line in `line`; QEMU may have been taken over by its guest: what is too long ends the talk. */
static int next_line(int monitor, int report, char *line, uint64_t until)
{
    for (;;) {
        char *end = memchr(lines, '\n', have);
        if (end != NULL) {
            size_t length = (size_t)(end - lines);
            memcpy(line, lines, length);
            line[length] = 0;
            have -= length + 1;
            memmove(lines, end + 1, have);
            return 0;
        }
        uint64_t now = sys_boottime() / 1000000u;
        struct pollfd waited[] = {{.fd = monitor, .events = POLLIN}, {.fd = report, .events = heeded}};
        if (have == sizeof lines || now >= until)
            return -1;
        if (poll(waited, 2, (int)(until - now)) < 0 && errno != EINTR)
            return -1;
        if (waited[1].revents != 0)
            return -1;
        if (waited[0].revents == 0)
            continue;
        ssize_t got = recv(monitor, lines + have, sizeof lines - have, MSG_DONTWAIT);
        if (got == 0 || (got < 0 && errno != EAGAIN && errno != EINTR))
            return -1;
        have += got > 0 ? (size_t)got : 0;
    }
}

static void note_event(const char *line)
{
    if (strstr(line, "\"MIGRATION\"") == NULL)
        return;
    completed |= strstr(line, "\"completed\"") != NULL;
    failed |= strstr(line, "\"failed\"") != NULL || strstr(line, "\"cancelled\"") != NULL;
    moving &= !completed && !failed;
}

static bool put(int monitor, const char *text, int fd)
{
    union {
        struct cmsghdr header;
        char space[CMSG_SPACE(sizeof(int))];
    } control = {0};
    struct iovec part = {(void *)(uintptr_t)text, strlen(text)};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
    if (fd >= 0) {
        message.msg_control = &control;
        message.msg_controllen = sizeof control;
        struct cmsghdr *it = CMSG_FIRSTHDR(&message);
        *it = (struct cmsghdr){.cmsg_len = CMSG_LEN(sizeof fd), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS};
        memcpy(CMSG_DATA(it), &fd, sizeof fd);
    }
    return sendmsg(monitor, &message, MSG_NOSIGNAL) == (ssize_t)part.iov_len;
}

static bool is_stopped(int report)
{
    return heeded != 0 && vm_suspend_is_stopped(report);
}

/* A command and its answer, which has its number: one that was given up may be answered still. */
static int ask(int monitor, int report, const char *command, int fd, char *why, size_t size)
{
    static unsigned number;
    char line[LINE + 1], text[256], id[32];
    uint64_t until = sys_boottime() / 1000000u + ANSWER_MS;
    snprintf(id, sizeof id, "\"id\": \"dms-%u\"", ++number);
    snprintf(text, sizeof text, "{%s, \"execute\": %s}\n", id, command);
    if (is_stopped(report))
        return give_up(why, size, ECANCELED, VM_SUSPEND_STOPPED);
    if (!put(monitor, text, fd))
        return give_up(why, size, EPIPE, "QEMU takes no commands");
    while (next_line(monitor, report, line, until) == 0) {
        note_event(line);
        if (strstr(line, id) == NULL)
            continue;
        return strstr(line, "\"return\": {}") != NULL ? 0 : give_up(why, size, EIO, line);
    }
    if (is_stopped(report))
        return give_up(why, size, ECANCELED, VM_SUSPEND_STOPPED);
    return give_up(why, size, ETIMEDOUT, "QEMU does not answer");
}

static int wait_for_move(int monitor, int report, uint64_t most, char *why, size_t size)
{
    char line[LINE + 1];
    uint64_t until = sys_boottime() / 1000000u + most;
    while (!completed && !failed && next_line(monitor, report, line, until) == 0)
        note_event(line);
    if (completed)
        return 0;
    if (is_stopped(report))
        return give_up(why, size, ECANCELED, VM_SUSPEND_STOPPED);
    return give_up(why, size, EIO, failed ? "QEMU could not do it" : "QEMU did not do it in time");
}

static int begin(int monitor, int report, char *why, size_t size)
{
    if (!greeted && (ask(monitor, report, "\"qmp_capabilities\"", -1, why, size) != 0 ||
                     ask(monitor, report,
                         "\"migrate-set-capabilities\", \"arguments\": {\"capabilities\":"
                         " [{\"capability\": \"events\", \"state\": true}]}",
                         -1, why, size) != 0))
        return -1;
    greeted = true;
    return 0;
}

static int move(int monitor, int report, const char *command, char *why, size_t size)
{
    if (is_stopped(report))
        return give_up(why, size, ECANCELED, VM_SUSPEND_STOPPED);
    completed = failed = false;
    moving = true;
    if (ask(monitor, report, command, -1, why, size) != 0) {
        moving &= errno != EIO;
        return -1;
    }
    return wait_for_move(monitor, report, MOVE_MS, why, size);
}

int vm_monitor_save(int monitor, int file, int report, char *why, unsigned long size)
{
    heeded = POLLIN;
    /* A local file: no rate is too much. It stands still before, so that all of it is written once. */
    int result =
        begin(monitor, report, why, size) != 0 ||
                ask(monitor, report, "\"migrate-set-parameters\", \"arguments\": {\"max-bandwidth\": 1099511627776}", -1, why, size) != 0 ||
                ask(monitor, report, "\"stop\"", -1, why, size) != 0 ||
                ask(monitor, report, "\"getfd\", \"arguments\": {\"fdname\": \"saved\"}", file, why, size) != 0 ||
                move(monitor, report, "\"migrate\", \"arguments\": {\"uri\": \"fd:saved\"}", why, size) != 0
            ? -1
            : 0;
    heeded = 0;
    return result;
}

int vm_monitor_restore(int monitor, int number, int report, char *why, unsigned long size)
{
    char text[128];
    snprintf(text, sizeof text, "\"migrate-incoming\", \"arguments\": {\"uri\": \"fd:%d\"}", number);
    return begin(monitor, report, why, size) != 0 ? -1 : move(monitor, report, text, why, size);
}

int vm_monitor_go_on(int monitor, int report, char *why, unsigned long size)
{
    /* The end of a migration would stop it again. */
    if (moving && ask(monitor, report, "\"migrate_cancel\"", -1, why, size) == 0 && !completed && !failed)
        wait_for_move(monitor, report, ANSWER_MS, why, size);
    moving = false;
    return begin(monitor, report, why, size) != 0 ? -1 : ask(monitor, report, "\"cont\"", -1, why, size);
}

void vm_monitor_drain(int *monitor)
{
    char *end;
    ssize_t got = recv(*monitor, lines + have, sizeof lines - have, MSG_DONTWAIT);
    if (got < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (got <= 0) {
        close(*monitor);
        *monitor = -1;
        return;
    }
    have += (size_t)got;
    end = memrchr(lines, '\n', have);
    size_t done = end != NULL ? (size_t)(end - lines) + 1 : have == sizeof lines ? have : 0;
    have -= done;
    memmove(lines, lines + done, have);
}
