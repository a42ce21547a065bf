#include "clients.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "complain.h"
#include "events.h"
#include "open.h"
#include "sys.h"

#define CLIENT_BUFFER (FRAME_HEADER + OPEN_MOST) /* the longest frame that a client may send */

struct client {
    int fd;
    uint32_t have;
    int fds[OPEN_FDS], fd_count; /* came with a frame that is not served yet */
};

static struct client clients[CLIENT_SLOTS];
/* Apart, and so in memory only as far as somebody sent something. */
static uint8_t buffers[CLIENT_SLOTS][CLIENT_BUFFER];
static int listener = -1, epoll_fd = -1;
static bool listening;
static client_request *serve;
static client_gone *on_gone;

static int watch(int fd, uint64_t tag)
{
    struct epoll_event event = {.events = EPOLLIN, .data.u64 = tag};
    return epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event);
}

static int listen_in(int folder)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    /* By descriptor, since sun_path holds only 108 bytes. */
    snprintf(address.sun_path, sizeof address.sun_path, "/proc/self/fd/%d/control", folder);
    unlinkat(folder, "control", 0);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    mode_t old = umask(0177);
    int result = fd < 0 ? -1 : bind(fd, (struct sockaddr *)&address, sizeof address);
    int error = errno;
    umask(old);
    errno = error;
    return result == 0 && listen(fd, 128) == 0 ? fd : -1;
}

int clients_open(int folder, int caller, int epoll, client_request *request, client_gone *gone)
{
    for (int i = 0; i < CLIENT_SLOTS; i++)
        clients[i].fd = -1;
    epoll_fd = epoll;
    serve = request;
    on_gone = gone;
    clients[CLIENT_CALLER].fd = caller;
    listener = listen_in(folder);
    if (listener < 0)
        return -1;
    listening = true;
    return watch(listener, EVENT_LISTENER) == 0 && watch(caller, EVENT_CLIENT + CLIENT_CALLER) == 0 ? 0 : -1;
}

static void close_descriptors(struct client *it)
{
    while (it->fd_count > 0)
        close(it->fds[--it->fd_count]);
}

static void drop(int client)
{
    if (clients[client].fd < 0)
        return;
    close_descriptors(&clients[client]);
    close(clients[client].fd);
    clients[client].fd = -1;
    clients[client].have = 0;
    if (!listening && listener >= 0)
        listening = watch(listener, EVENT_LISTENER) == 0;
    on_gone(client);
}

static int free_slot(void)
{
    for (int i = CLIENT_CALLER + 1; i < CLIENT_SLOTS; i++)
        if (clients[i].fd < 0)
            return i;
    return -1;
}

bool clients_accept(void)
{
    int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd < 0) {
        if (errno == EAGAIN || errno == EINTR || errno == ECONNABORTED)
            return false;
        /* Out of descriptors: an unread listener would wake us for ever. Goes on when a client leaves. */
        complain("accept: %m");
        epoll_ctl(epoll_fd, EPOLL_CTL_DEL, listener, NULL);
        listening = false;
        return false;
    }
    int slot = free_slot();
    if (slot < 0 || watch(fd, EVENT_CLIENT + (uint64_t)slot) != 0) {
        close(fd);
        return true;
    }
    clients[slot].fd = fd;
    clients[slot].have = 0;
    return true;
}

/* Serves the complete frames of a client's buffer; false if it was dropped meanwhile. */
static bool serve_buffered(int client)
{
    struct client *it = &clients[client];
    enum frame_side side = client == CLIENT_CALLER ? FROM_CALLER : FROM_CLIENT;
    uint8_t payload[CLIENT_BUFFER];
    uint8_t *bytes = buffers[client];
    struct frame frame;
    long size;
    while ((size = frame_parse(bytes, it->have, side, &frame)) > 0) {
        memcpy(payload, frame.payload, frame.length);
        frame.payload = payload;
        it->have -= (uint32_t)size;
        memmove(bytes, bytes + size, it->have);
        int fd = it->fd;
        serve(client, &frame);
        if (it->fd != fd)
            return false;
        close_descriptors(it);
    }
    if (size < 0)
        drop(client);
    return size == 0;
}

static ssize_t receive(struct client *it, uint8_t *at, size_t room)
{
    union {
        struct cmsghdr header;
        uint8_t space[CMSG_SPACE(sizeof(int) * OPEN_FDS)];
    } control;
    struct iovec part = {at, room};
    struct msghdr message = {
        .msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
    ssize_t got = recvmsg(it->fd, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    if (got < 0)
        return got;
    for (struct cmsghdr *each = CMSG_FIRSTHDR(&message); each != NULL; each = CMSG_NXTHDR(&message, each)) {
        if (each->cmsg_level != SOL_SOCKET || each->cmsg_type != SCM_RIGHTS)
            continue;
        close_descriptors(it);
        it->fd_count = (int)((each->cmsg_len - CMSG_LEN(0)) / sizeof(int));
        memcpy(it->fds, CMSG_DATA(each), (size_t)it->fd_count * sizeof(int));
    }
    return got;
}

void client_ready(int client)
{
    struct client *it = &clients[client];
    while (it->fd >= 0) {
        ssize_t got = receive(it, buffers[client] + it->have, CLIENT_BUFFER - it->have);
        if (got < 0 && (errno == EAGAIN || errno == EINTR))
            return;
        if (got <= 0) {
            drop(client);
            return;
        }
        it->have += (uint32_t)got;
        if (!serve_buffered(client))
            return;
    }
}

int client_descriptors(int client, const int **fds)
{
    *fds = clients[client].fds;
    return clients[client].fd_count;
}

void client_send(int client, uint8_t type, const uint8_t *payload, size_t length)
{
    uint8_t header[FRAME_HEADER];
    struct client *it = &clients[client];
    if (it->fd < 0)
        return;
    size_t size = frame_header(header, type, (uint32_t)length);
    struct iovec parts[] = {{header, size}, {(void *)payload, length}};
    struct msghdr message = {.msg_iov = parts, .msg_iovlen = 2};
    /* One that does not read is dropped: the job's end must never wait for it. */
    if (sendmsg(it->fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL) != (ssize_t)(size + length))
        drop(client);
}

void clients_broadcast(uint8_t type, const uint8_t *payload, size_t length)
{
    for (int i = 0; i < CLIENT_SLOTS; i++)
        client_send(i, type, payload, length);
}

size_t error_payload(uint8_t *at, int error, const char *text)
{
    size_t length = strlen(text);
    if (length > FRAME_TEXT_MAX)
        length = FRAME_TEXT_MAX;
    put_u32(at, (uint32_t)error);
    memcpy(at + 4, text, length);
    return 4 + length;
}

void client_refuse(int client, int error, const char *text)
{
    uint8_t bytes[4 + FRAME_TEXT_MAX];
    client_send(client, FRAME_ERROR, bytes, error_payload(bytes, error, text));
}

void clients_stop_listening(int folder)
{
    unlinkat(folder, "control", 0);
    for (int i = 0; i < CLIENT_SLOTS && listening && clients_accept(); i++)
        ;
    close(listener);
    listener = -1;
    listening = false;
}

void clients_close(void)
{
    for (int i = 0; i < CLIENT_SLOTS; i++)
        if (clients[i].fd >= 0)
            close(clients[i].fd);
}
