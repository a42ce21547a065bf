/* What is new in each guest, also in one of many that came of one snapshot: the time, random numbers, the disks. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/random.h>
#include <stdbool.h>
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

enum {
    MOST_DISKS = 64,
    STAND_IN_SECTORS = 1, /* of each disk of a guest of Firecracker's while it waits: no job has one as small */
    RESIZE_MS = 20000,    /* that the host's word of a disk's new size may need */
};

static enum { BOOTED, TEMPLATE, CLONE } state;

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

/* The monitor says that a disk's file is another one: its driver takes the size anew. What it read of the stand-in when it
 * found that went with the last close of the device. */
static int await_disks(void)
{
    char path[64], text[32];
    for (char letter = 'a'; letter <= 'z'; letter++) {
        snprintf(path, sizeof path, "/sys/block/vd%c/size", letter);
        for (int tries = 0;; tries++) {
            if (sys_read_file(AT_FDCWD, path, text, sizeof text) < 0)
                return errno == ENOENT ? 0 : -1;
            if (strtoull(text, NULL, 10) > STAND_IN_SECTORS)
                break;
            errno = ETIMEDOUT;
            if (tries == RESIZE_MS)
                return -1;
            usleep(1000);
        }
    }
    return 0;
}

bool guest_is_template(void)
{
    return state == TEMPLATE;
}

const char *guest_wake(bool called)
{
    if (state == BOOTED) {
        state = TEMPLATE;
        /* Most releases of Firecracker cannot reset a disk, which its driver's leaving takes. */
        return called || release_disks() == 0 ? NULL : "cannot let go of its disks";
    }
    state = CLONE;
    return (called ? await_disks() : take_disks()) == 0 ? NULL : "cannot take its disks";
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
