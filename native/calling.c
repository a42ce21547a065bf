#include "calling.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "frame.h"
#include "sys.h"

enum { STREAMS = 3 };

/* No name holds the sign. */
static void forget(char *names)
{
    for (char *name = names, *next; name != NULL; name = next) {
        if ((next = strchr(name, '=')) != NULL)
            *next++ = '\0';
        unsetenv(name);
    }
}

int calling_connect(char *path)
{
    char *names = strchr(path, '=');
    if (names != NULL) {
        *names++ = '\0';
        forget(names);
    }
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof address.sun_path) {
        errno = ENAMETOOLONG;
        return -1;
    }
    strcpy(address.sun_path, path);
    /* Above the standard ones, whose places are still to be filled. */
    int fd = sys_move_fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), STREAMS);
    if (fd >= 0 && connect(fd, (struct sockaddr *)&address, sizeof address) == 0)
        return fd;
    int error = errno;
    if (fd >= 0)
        close(fd);
    errno = error;
    return -1;
}

static void become_standard(struct cmsghdr *part)
{
    int fds[STREAMS];
    if (part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_RIGHTS || part->cmsg_len != CMSG_LEN(sizeof fds))
        return;
    memcpy(fds, CMSG_DATA(part), sizeof fds);
    /* Moved away first: what came may bear the number of another's place. */
    for (int i = 0; i < STREAMS; i++)
        fds[i] = sys_move_fd(fds[i], STREAMS);
    for (int i = 0; i < STREAMS; i++) {
        dup2(fds[i], i);
        close(fds[i]);
    }
}

ssize_t calling_receive(int connection, void *bytes, size_t size)
{
    union {
        struct cmsghdr header;
        char space[CMSG_SPACE(STREAMS * sizeof(int))];
    } control = {0};
    struct iovec part = {bytes, size};
    struct msghdr message = {
        .msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
    ssize_t got = recvmsg(connection, &message, MSG_CMSG_CLOEXEC);
    if (got > 0 && message.msg_controllen > 0)
        become_standard(&control.header);
    return got;
}

/* Nothing of a session runs before it is in the control group by which it can be killed. It moves itself; where it may
 * not (before Linux 5.16 the writer's rights counted, not the opener's), or where that group has gone with who asked for
 * us, it waits. */
bool calling_await_go(int connection, int group)
{
    bool joined = group >= 0 && write(group, "0", 1) == 1;
    if (group >= 0)
        close(group);
    if (joined)
        return true;

    uint8_t bytes[FRAME_HEADER];
    struct frame frame;
    size_t have = 0;
    while (have < sizeof bytes) {
        ssize_t got = calling_receive(connection, bytes + have, sizeof bytes - have);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return false;
        have += (size_t)got;
    }
    return frame_parse(bytes, have, TO_INIT, &frame) == FRAME_HEADER && frame.type == FRAME_INIT_GO;
}
