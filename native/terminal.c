#include "terminal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#ifndef TIOCGPTPEER
#define TIOCGPTPEER 0x5441 /* _IO('T', 0x41); Linux 4.13: ioctl_tty(2) */
#endif

int terminal_open(const char *size, int *out)
{
    struct winsize window = {.ws_col = 80, .ws_row = 24};
    int unlocked = 0;
    int master = open("/dev/ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (master < 0)
        return -1;
    sscanf(size, "%hux%hu", &window.ws_col, &window.ws_row);
    /* By the master and not by a name, which whoever is in the job could have given to something else. */
    if (ioctl(master, TIOCSPTLCK, &unlocked) != 0 ||
        (*out = ioctl(master, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC)) < 0 ||
        ioctl(master, TIOCSWINSZ, &window) != 0) {
        int error = errno;
        close(master);
        errno = error;
        return -1;
    }
    return master;
}

int terminal_hand_over(int socket, const void *bytes, size_t length, int master)
{
    union {
        struct cmsghdr header;
        char space[CMSG_SPACE(sizeof(int))];
    } control;
    struct iovec part = {(void *)bytes, length};
    struct msghdr message = {
        .msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
    memset(&control, 0, sizeof control);
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(header), &master, sizeof master);
    return sendmsg(socket, &message, MSG_NOSIGNAL) == (ssize_t)length ? 0 : -1;
}

void terminal_take(int fd)
{
    setsid();
    ioctl(fd, TIOCSCTTY, 0);
    for (int i = 0; i < 3; i++)
        dup2(fd, i);
    if (fd > 2)
        close(fd);
}

void terminal_separate(int terminal, bool in_script)
{
    if (terminal >= 0 && in_script) {
        /* Not as its controlling terminal: the end of the script's session would hang it up for the job. */
        setsid();
        dup2(terminal, 1);
        dup2(terminal, 2);
    } else if (terminal >= 0) {
        terminal_take(terminal);
    } else if (isatty(0)) {
        setpgid(0, 0);
        tcsetpgrp(0, getpid());
    } else {
        setsid();
    }
}
