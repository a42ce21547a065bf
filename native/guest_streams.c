/* A job's streams and what its init says, of the job itself and of further commands alike. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "frame.h"
#include "guest.h"

static void close_fd(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

/* Input has a descriptor of its own: it may end before the output does. */
static void take_terminal(struct guest_job *job, int master)
{
    int flags = fcntl(master, F_GETFL);
    if (job->terminal || flags < 0 || fcntl(master, F_SETFL, flags | O_NONBLOCK) != 0) {
        close(master);
        return;
    }
    guest_streams_close(job);
    job->terminal = true;
    job->streams[0] = master;
    job->input = fcntl(master, F_DUPFD_CLOEXEC, 0);
}

static ssize_t receive(struct guest_job *job, int *master)
{
    union {
        struct cmsghdr header;
        uint8_t space[CMSG_SPACE(sizeof(int))];
    } control = {0};
    struct iovec part = {job->said + job->said_length, sizeof job->said - job->said_length};
    struct msghdr message = {
        .msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
    ssize_t got = recvmsg(job->report, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    struct cmsghdr *came = got > 0 ? CMSG_FIRSTHDR(&message) : NULL;
    *master = -1;
    if (came != NULL && came->cmsg_level == SOL_SOCKET && came->cmsg_type == SCM_RIGHTS &&
        came->cmsg_len == CMSG_LEN(sizeof *master))
        memcpy(master, CMSG_DATA(came), sizeof *master);
    return got;
}

int guest_hear(struct guest_job *job, guest_said *said, void *whom)
{
    struct frame frame;
    int master;
    long size = 0;
    ssize_t got = receive(job, &master);
    if (got < 0 && (errno == EAGAIN || errno == EINTR))
        return NOTHING_NEW;
    if (master >= 0)
        take_terminal(job, master);
    job->said_length += got > 0 ? (size_t)got : 0;
    while ((size = frame_parse(job->said, job->said_length, FROM_INIT, &frame)) > 0) {
        said(whom, &frame);
        job->said_length -= (size_t)size;
        memmove(job->said, job->said + size, job->said_length);
    }
    if (got > 0 && size == 0)
        return HEARD;
    close_fd(&job->report);
    return HUNG_UP;
}

bool guest_streams_over(const struct guest_job *job)
{
    return (job->streams[0] < 0 || job->hung_up) && job->streams[1] < 0;
}

void guest_streams_close(struct guest_job *job)
{
    close_fd(&job->streams[0]);
    close_fd(&job->streams[1]);
    close_fd(&job->input);
}

/* A terminal that nobody holds is not closed before the end, which would be SIGHUP for its session: a job may well close
 * its streams and go on, and somebody may open the terminal again. */
bool guest_stream_over(struct guest_job *job, int index, ssize_t got)
{
    bool over = got == 0 || (got < 0 && errno != EAGAIN && errno != EINTR);
    if (job->terminal && index == 0) {
        job->hung_up = over || (job->hung_up && got < 0);
        return false;
    }
    if (over)
        close_fd(&job->streams[index]);
    return over;
}

void guest_resize(const struct guest_job *job, const uint8_t *size)
{
    struct winsize window = {.ws_col = (unsigned short)get_u32(size), .ws_row = (unsigned short)get_u32(size + 4)};
    if (job->terminal && job->streams[0] >= 0)
        ioctl(job->streams[0], TIOCSWINSZ, &window);
}
