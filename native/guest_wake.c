/* What is new in each guest, also in one of many that came of one snapshot: the time, random numbers, the disks. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/random.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include "frame.h"
#include "guest.h"
#include "sys.h"

#define DISKS "/sys/bus/virtio/drivers/virtio_blk"

enum { MOST_DISKS = 64 };

static int released[MOST_DISKS], released_count; /* in the order of their names */

static int set_clock(uint64_t stamp)
{
    struct timespec now = {.tv_sec = (time_t)(stamp / 1000000000u), .tv_nsec = (long)(stamp % 1000000000u)};
    return clock_settime(CLOCK_REALTIME, &now);
}

/* random(4): the second call has the kernel's generator begin anew with what it was given, at once. */
static int reseed(const uint8_t *bytes)
{
    /* A struct rand_pool_info: bits of entropy, bytes, and these. */
    uint32_t given[2 + GO_RANDOM / 4] = {8 * GO_RANDOM, GO_RANDOM};
    memcpy(given + 2, bytes, GO_RANDOM);
    int fd = open("/dev/urandom", O_RDWR | O_CLOEXEC);
    int result = fd < 0 || ioctl(fd, RNDADDENTROPY, given) != 0 || ioctl(fd, RNDRESEEDCRNG) != 0 ? -1 : 0;
    if (fd >= 0)
        close(fd);
    return result;
}

static int compare(const void *left, const void *right)
{
    int a = *(const int *)left, b = *(const int *)right;
    return (a > b) - (a < b);
}

static int tell_driver(const char *file, int device)
{
    char name[32];
    int length = snprintf(name, sizeof name, "virtio%d", device);
    return sys_write_file(file, name, (size_t)length);
}

static int release_disks(void)
{
    int result = 0;
    DIR *folder = opendir(DISKS);
    struct dirent *entry;
    if (folder == NULL)
        return errno == ENOENT ? 0 : -1; /* a machine without any */
    while ((entry = readdir(folder)) != NULL && released_count < MOST_DISKS)
        if (sscanf(entry->d_name, "virtio%d", &released[released_count]) == 1)
            released_count++;
    closedir(folder);
    errno = EMFILE;
    if (released_count == MOST_DISKS)
        return -1;
    qsort(released, (size_t)released_count, sizeof *released, compare);
    for (int i = 0; i < released_count; i++)
        result |= tell_driver(DISKS "/unbind", released[i]);
    return result;
}

static int take_disks(void)
{
    int result = 0;
    for (int i = 0; i < released_count; i++)
        result |= tell_driver(DISKS "/bind", released[i]);
    return result;
}

const char *guest_wake(void)
{
    static bool is_template;
    if (is_template)
        return take_disks() == 0 ? NULL : "cannot take its disks";
    is_template = true;
    return release_disks() == 0 ? NULL : "cannot let go of its disks";
}

const char *guest_begin(const struct frame *go)
{
    errno = EPROTO;
    if (go->length != GO_LENGTH)
        return "cannot begin: the host's word has another length";
    if (set_clock(get_u64(go->payload)) != 0)
        return "cannot set the clock";
    if (reseed(go->payload + 8) != 0)
        return "cannot take the host's random numbers";
    return NULL;
}
