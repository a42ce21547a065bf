#include "vm_kept.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "frame.h"
#include "sys.h"
#include "vm_api.h"
#include "vm_fire.h"
#include "vm_suspend.h"

#define MEMORY "memory"
#define STATE "state"
#define MAGIC "dmsfire1"

enum {
    ANSWER_MS = 30000,
    SAVE_MS = 1800000, /* a whole memory, on a slow disk */
    CALL_MS = 120000,  /* that an agent needs to call again, on a host that has no time for it */
    RESET_MS = 5000,   /* that the word of its call's end may need to reach it */
    STATE_MOST = 16 << 20,
    BLOCK = 65536,
};

static const struct vm_call pause_it = {"PATCH /vm", "{\"state\": \"Paused\"}"};
static const struct vm_call resume_it = {"PATCH /vm", "{\"state\": \"Resumed\"}"};
static const struct vm_call create = {
    "PUT /snapshot/create",
    "{\"snapshot_type\": \"Full\", \"snapshot_path\": \"" STATE "\", \"mem_file_path\": \"" MEMORY "\"}",
};

static bool was_cut; /* its call, by a snapshot that came to nothing */
static uint64_t called_until; /* ms */

static uint64_t now_ms(void)
{
    return sys_boottime() / 1000000u;
}

static int open_place(const struct vm_options *options)
{
    const char *folder = options->place.folder != NULL ? options->place.folder : ".";
    return open(folder, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
}

/* The folder is the monitor's: who broke out into it may have left there anything. */
static int open_saved(int place, const char *name)
{
    struct stat status;
    int fd = openat(place, name, O_RDWR | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (fd >= 0 && (fstat(fd, &status) != 0 || !S_ISREG(status.st_mode) || status.st_nlink != 1)) {
        close(fd);
        errno = EPROTO;
        return -1;
    }
    return fd;
}

/* Firecracker writes all of it, and most is nothing but zeros. A file system without holes keeps them. */
static int punch(int fd, off_t size)
{
    static uint8_t block[BLOCK];
    static const uint8_t nothing[BLOCK];
    for (off_t at = 0; at < size; at += BLOCK) {
        off_t data = lseek(fd, at, SEEK_DATA);
        if (data < 0 && errno == ENXIO)
            return 0; /* none from here on */
        if (data > at)
            at = data - data % BLOCK;
        ssize_t got = pread(fd, block, sizeof block, at);
        if (got <= 0)
            return got < 0 ? -1 : 0;
        if (memcmp(block, nothing, (size_t)got) == 0 &&
            fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, at, got) != 0)
            return errno == EOPNOTSUPP ? 0 : -1;
    }
    return 0;
}

/* And in the end how long the memory is, and whose form it has. */
static int append(int fd, off_t size, int state)
{
    static uint8_t bytes[STATE_MOST];
    uint8_t end[16];
    ssize_t got = pread(state, bytes, sizeof bytes, 0);
    put_u64(end, (uint64_t)size);
    memcpy(end + 8, MAGIC, 8);
    errno = EPROTO;
    if (got <= 0 || got == STATE_MOST || lseek(fd, size, SEEK_SET) != size)
        return -1;
    return sys_write_all(fd, (const char *)bytes, (size_t)got) != 0 ? -1 : sys_write_all(fd, (const char *)end, sizeof end);
}

/* Nothing of it is the monitor's any more, which still stands there. */
static int take(int place, int at, const char *name)
{
    struct stat ours, there;
    int result = -1, state = open_saved(place, STATE), memory = open_saved(place, MEMORY);
    if (state >= 0 && memory >= 0 && fchown(memory, geteuid(), getegid()) == 0 && fchmod(memory, 0600) == 0 &&
        fstat(memory, &ours) == 0 && punch(memory, ours.st_size) == 0 && append(memory, ours.st_size, state) == 0 &&
        fsync(memory) == 0 && renameat(place, MEMORY, at, name) == 0 && fstat(memory, &ours) == 0 &&
        fstatat(at, name, &there, AT_SYMLINK_NOFOLLOW) == 0) {
        errno = EPROTO;
        result = ours.st_dev == there.st_dev && ours.st_ino == there.st_ino ? 0 : -1;
    }
    int error = errno;
    if (state >= 0)
        close(state);
    if (memory >= 0)
        close(memory);
    unlinkat(place, STATE, 0);
    errno = error;
    return result;
}

/* Firecracker itself can give up no call: whoever stops the job waits for its answer, and kills it when that is too long. */
static int ask(const struct vm_call *call, int most, int report, char *why, size_t size)
{
    enum vm_fired fired = vm_fire_one(call, most);
    bool is_stopped = fired == FIRE_TOLD || vm_suspend_is_stopped(report);
    snprintf(why, size, "%s", is_stopped ? VM_SUSPEND_STOPPED : vm_fire_problem());
    return is_stopped ? ECANCELED : fired == FIRED ? 0 : strstr(why, "os error 28") != NULL ? ENOSPC : EIO;
}

int vm_kept_save(const struct vm_options *options, int report, int at, const char *name, char *why, size_t size)
{
    int error = EIO, place = open_place(options);
    was_cut = false;
    if (place < 0) {
        snprintf(why, size, "its folder is gone");
        return error;
    }
    unlinkat(place, MEMORY, 0); /* one that came from the disk has its memory in the file of that name */
    unlinkat(place, STATE, 0);
    error = ask(&pause_it, ANSWER_MS, report, why, size);
    if (error == 0) {
        was_cut = true;
        error = ask(&create, SAVE_MS, report, why, size);
    }
    if (error == 0 && take(place, at, name) != 0) {
        error = errno;
        snprintf(why, size, "it cannot be written: %s", strerror(error));
    }
    if (error != 0) {
        unlinkat(place, MEMORY, 0);
        unlinkat(place, STATE, 0);
    }
    close(place);
    return error;
}

/* A snapshot has Firecracker tell the guest that its calls have ended, which it hears when it runs again. It is not to
 * hear that after it has called anew because we hung up: so that comes last. */
static bool await_call(struct vmm *vmm, const struct vm_options *options)
{
    int before = vmm->channel;
    if (vmm_listen_anew(vmm, &options->place) != 0 || vm_fire_one(&resume_it, ANSWER_MS) != FIRED)
        return false;
    struct pollfd waited = {.fd = vmm->listening, .events = POLLIN};
    while (poll(&waited, 1, RESET_MS) < 0)
        ;
    close(before);
    vmm->channel = -1;
    called_until = now_ms() + CALL_MS;
    return true;
}

bool vm_kept_go_on(struct vmm *vmm, const struct vm_options *options)
{
    if (was_cut)
        return await_call(vmm, options);
    vm_api_resume(options);
    return vmm->pid != 0;
}

bool vm_kept_load(struct vmm *vmm, const struct vm_options *options, int report, int folder, int signals)
{
    vm_fire_know(vmm, options, report, folder, signals);
    bool done = vm_fire(vmm, options, report, folder, signals) == FIRED;
    int place = open_place(options);
    if (place >= 0) { /* it has them */
        unlinkat(place, MEMORY, 0);
        unlinkat(place, STATE, 0);
        close(place);
    }
    return done;
}

bool vm_kept_run(void)
{
    called_until = now_ms() + CALL_MS;
    return vm_fire_one(&resume_it, ANSWER_MS) == FIRED;
}

int vm_kept_patience(void)
{
    uint64_t now = now_ms();
    return called_until == 0 ? -1 : now >= called_until ? 0 : (int)(called_until - now);
}
