#include "vm_api.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

enum { ANSWER_MS = 500 }; /* that its answer is waited for, so that it has read what it was sent */

int vm_api_say(const struct vm_options *options, const char *call, const char *body)
{
    char text[1024];
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    struct timeval most = {.tv_usec = ANSWER_MS * 1000};
    int folder = open(options->place.folder != NULL ? options->place.folder : ".", O_PATH | O_DIRECTORY | O_CLOEXEC);
    /* The socket itself: a guest that broke out into its folder leads nobody to another one by a link. */
    int at = openat(folder, options->api, O_PATH | O_NOFOLLOW | O_CLOEXEC);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    snprintf(address.sun_path, sizeof address.sun_path, "/proc/self/fd/%d", at);
    int length = body == NULL ? snprintf(text, sizeof text, "%s HTTP/1.1\r\nHost: localhost\r\n\r\n", call)
                              : snprintf(text, sizeof text,
                                    "%s HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                                    "Content-Length: %zu\r\n\r\n%s",
                                    call, strlen(body), body);
    bool said = at >= 0 && fd >= 0 && length < (int)sizeof text &&
                setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &most, sizeof most) == 0 &&
                setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &most, sizeof most) == 0 &&
                connect(fd, (struct sockaddr *)&address, sizeof address) == 0 && send(fd, text, (size_t)length, MSG_NOSIGNAL) == length;
    if (folder >= 0)
        close(folder);
    if (at >= 0)
        close(at);
    if (said)
        return fd;
    if (fd >= 0)
        close(fd);
    return -1;
}

static void tell(const struct vm_options *options, const char *call, const char *body)
{
    char answer[512];
    int fd = options->api != NULL ? vm_api_say(options, call, body) : -1;
    if (fd < 0)
        return;
    (void)!recv(fd, answer, sizeof answer, 0);
    close(fd);
}

/* What it answers ends with the one object's brace. */
static bool is_paused(const struct vm_options *options)
{
    char answer[1024] = "";
    size_t have = 0;
    int fd = options->api != NULL ? vm_api_say(options, "GET /", NULL) : -1;
    if (fd < 0)
        return false;
    while (have < sizeof answer - 1 && memchr(answer, '}', have) == NULL) {
        ssize_t got = recv(fd, answer + have, sizeof answer - 1 - have, 0);
        if (got <= 0)
            break;
        have += (size_t)got;
    }
    close(fd);
    answer[have] = '\0';
    return strstr(answer, "\"Paused\"") != NULL;
}

/* Never one that runs: 1.16 then lets nothing more through to its guest (https://github.com/firecracker-microvm/firecracker/pull/6100). */
void vm_api_resume(const struct vm_options *options)
{
    if (is_paused(options))
        tell(options, "PATCH /vm", "{\"state\": \"Resumed\"}");
}

void vm_api_press(const struct vm_options *options)
{
    tell(options, "PUT /actions", "{\"action_type\": \"SendCtrlAltDel\"}");
}
