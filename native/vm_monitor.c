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

enum {
    LINE = 16384,
    ANSWER_MS = 30000, /* on a host that has no time for us */
    MOVE_MS = 1800000, /* for a guest's whole memory, on a slow disk */
};

static char lines[LINE];
static size_t have;
static bool completed, failed; /* what the migration's events said */

static int give_up(char *why, size_t size, const char *text)
{
    snprintf(why, size, "%s", text);
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
        struct pollfd waited[] = {{.fd = monitor, .events = POLLIN}, {.fd = report, .events = 0}};
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

/* A command and its answer. */
static int ask(int monitor, int report, const char *text, int fd, char *why, size_t size)
{
    char line[LINE + 1];
    uint64_t until = sys_boottime() / 1000000u + ANSWER_MS;
    if (!put(monitor, text, fd))
        return give_up(why, size, "QEMU takes no commands");
    while (next_line(monitor, report, line, until) == 0) {
        note_event(line);
        if (strncmp(line, "{\"return\"", 9) == 0)
            return 0;
        if (strncmp(line, "{\"error\"", 8) == 0)
            return give_up(why, size, line);
    }
    return give_up(why, size, "QEMU does not answer");
}

static int wait_for_move(int monitor, int report, char *why, size_t size)
{
    char line[LINE + 1];
    uint64_t until = sys_boottime() / 1000000u + MOVE_MS;
    while (!completed && !failed && next_line(monitor, report, line, until) == 0)
        note_event(line);
    return completed ? 0 : give_up(why, size, "QEMU could not do it");
}

static int begin(int monitor, int report, char *why, size_t size)
{
    static bool greeted;
    completed = failed = false;
    if (!greeted && (ask(monitor, report, "{\"execute\":\"qmp_capabilities\"}\n", -1, why, size) != 0 ||
                     ask(monitor, report,
                         "{\"execute\":\"migrate-set-capabilities\",\"arguments\":{\"capabilities\":"
                         "[{\"capability\":\"events\",\"state\":true}]}}\n",
                         -1, why, size) != 0))
        return -1;
    greeted = true;
    return 0;
}

int vm_monitor_save(int monitor, int file, int report, char *why, unsigned long size)
{
    /* A local file: no rate is too much. It stands still before, so that all of it is written once. */
    if (begin(monitor, report, why, size) != 0 ||
        ask(monitor, report, "{\"execute\":\"migrate-set-parameters\",\"arguments\":{\"max-bandwidth\":1099511627776}}\n", -1, why, size) != 0 ||
        ask(monitor, report, "{\"execute\":\"stop\"}\n", -1, why, size) != 0 ||
        ask(monitor, report, "{\"execute\":\"getfd\",\"arguments\":{\"fdname\":\"saved\"}}\n", file, why, size) != 0 ||
        ask(monitor, report, "{\"execute\":\"migrate\",\"arguments\":{\"uri\":\"fd:saved\"}}\n", -1, why, size) != 0)
        return -1;
    return wait_for_move(monitor, report, why, size);
}

int vm_monitor_restore(int monitor, int number, int report, char *why, unsigned long size)
{
    char text[128];
    snprintf(text, sizeof text, "{\"execute\":\"migrate-incoming\",\"arguments\":{\"uri\":\"fd:%d\"}}\n", number);
    if (begin(monitor, report, why, size) != 0 || ask(monitor, report, text, -1, why, size) != 0)
        return -1;
    return wait_for_move(monitor, report, why, size);
}

int vm_monitor_go_on(int monitor, int report, char *why, unsigned long size)
{
    return begin(monitor, report, why, size) != 0 ? -1 : ask(monitor, report, "{\"execute\":\"cont\"}\n", -1, why, size);
}
