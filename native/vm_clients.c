#include "vm.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define WHOLE (FRAME_HEADER + FRAME_DATA_MAX)
#define BUFFER (4 * FRAME_WINDOW)

/* A channel's number is its place and one. It is free once the guest has said END, or was never told of it. */
static struct client {
    int fd; /* -1: it has gone */
    bool used, told;
    uint8_t in[WHOLE];
    size_t have;
} clients[VM_CLIENTS];

static int listening = -1;

void vm_clients_listen(int folder)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    for (int i = 0; i < VM_CLIENTS; i++)
        clients[i].fd = -1;
    snprintf(address.sun_path, sizeof address.sun_path, "/proc/self/fd/%d/exec", folder);
    unlinkat(folder, "exec", 0); /* of an earlier life of the same guest */
    listening = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    mode_t before = umask(0077);
    if (listening < 0 || bind(listening, (struct sockaddr *)&address, sizeof address) != 0 || listen(listening, VM_CLIENTS) != 0) {
        if (listening >= 0)
            close(listening);
        listening = -1; /* there are no further commands then */
    }
    umask(before);
}

static void drop(struct client *it)
{
    close(it->fd);
    it->fd = -1;
    it->have = 0;
    if (it->told)
        vm_give((uint16_t)(it - clients + 1), FRAME_GUEST_CLOSE, NULL, 0);
    it->used = it->told;
}

static struct client *a_free_one(void)
{
    for (int i = 0; i < VM_CLIENTS; i++)
        if (!clients[i].used)
            return &clients[i];
    return NULL;
}

static void take_one(void)
{
    struct client *it = a_free_one();
    int size = BUFFER;
    int fd = it == NULL ? -1 : accept4(listening, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd < 0)
        return;
    setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
    it->fd = fd;
    it->used = true;
    it->told = false;
    it->have = 0;
}

/* What a client sends is what a guest may be told, and is passed on with the channel's number. */
static void pass_on(struct client *it)
{
    struct frame frame;
    long size;
    while (vm_has_room() && (size = frame_parse(it->in, it->have, TO_GUEST, &frame)) != 0) {
        if (size < 0 || frame.channel != 0) {
            drop(it);
            return;
        }
        it->told = true;
        vm_give((uint16_t)(it - clients + 1), frame.type, frame.payload, frame.length);
        it->have -= (size_t)size;
        memmove(it->in, it->in + size, it->have);
    }
}

static void serve(struct client *it)
{
    ssize_t got = recv(it->fd, it->in + it->have, sizeof it->in - it->have, MSG_DONTWAIT);
    if (got < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (got <= 0) {
        drop(it);
        return;
    }
    it->have += (size_t)got;
    pass_on(it);
}

void vm_clients_wait(struct pollfd *out, bool job_runs)
{
    for (int i = 0; i < VM_CLIENTS; i++)
        if (clients[i].fd >= 0 && clients[i].have > 0)
            pass_on(&clients[i]); /* what found no room before */
    bool room = vm_has_room();
    for (int i = 0; i < VM_CLIENTS; i++)
        out[i] = (struct pollfd){.fd = room ? clients[i].fd : -1, .events = POLLIN};
    bool takes = listening >= 0 && job_runs && a_free_one() != NULL;
    out[VM_CLIENTS] = (struct pollfd){.fd = takes ? listening : -1, .events = POLLIN};
}

void vm_clients_serve(const struct pollfd *waited)
{
    /* Those that have gone first: what they left in the guest is killed before another command is begun. */
    for (int i = 0; i < VM_CLIENTS; i++) {
        if (clients[i].fd < 0 || waited[i].fd != clients[i].fd || !vm_has_room())
            continue;
        if (waited[i].revents != 0)
            serve(&clients[i]);
    }
    if (waited[VM_CLIENTS].revents != 0)
        take_one();
}

bool vm_clients_busy(void)
{
    for (int i = 0; i < VM_CLIENTS; i++)
        if (clients[i].used)
            return true;
    return false;
}

bool vm_clients_hear(const struct frame *frame)
{
    uint8_t bytes[WHOLE];
    struct client *it = frame->channel <= VM_CLIENTS ? &clients[frame->channel - 1] : NULL;
    if (it == NULL || !it->used || !it->told || frame->type == FRAME_GUEST_HELLO)
        return false;
    if (it->fd >= 0) {
        size_t length = frame_header(bytes, frame->type, frame->length);
        memcpy(bytes + length, frame->payload, frame->length);
        length += frame->length;
        /* No client lets a guest send more than its socket holds: one that does so all the same loses it. */
        if (send(it->fd, bytes, length, MSG_DONTWAIT | MSG_NOSIGNAL) != (ssize_t)length)
            drop(it);
    }
    if (frame->type == FRAME_GUEST_END) {
        if (it->fd >= 0)
            close(it->fd);
        it->fd = -1;
        it->used = it->told = false;
    }
    return true;
}
