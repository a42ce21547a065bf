#include "vm_suspend.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "frame.h"
#include "sys.h"
#include "vm.h"
#include "vm_fire.h"
#include "vm_kept.h"
#include "vm_monitor.h"

#define FOLDER "vm" /* in the execution's: microvm/plan.py */
#define MEMORY "memory"
#define SCRATCH "memory.tmp"

enum {
    PATIENCE_MS = 60000, /* for the guest's word, on a host that has no time for it */
    FULL = 1 << 20,      /* bytes: a disk that has no room for them is full */
    STOPS_MOST = 16,     /* signals that come before it goes on */
};

static uint64_t until; /* ms, 0: nothing is waited for */
static unsigned asked, answered; /* how often it was to freeze, and has said that it is: its answers come in order */

static void refuse(int error, const char *text)
{
    uint8_t payload[4 + FRAME_TEXT_MAX];
    size_t length = strlen(text) < FRAME_TEXT_MAX ? strlen(text) : FRAME_TEXT_MAX;
    put_u32(payload, (uint32_t)error);
    memcpy(payload + 4, text, length);
    vm_tell(FRAME_INIT_AWAKE, payload, 4 + length);
}

/* What nobody has read yet would be lost with the pipe; of a file nobody knew how far it was read. */
static bool has_unread_input(bool reads)
{
    int unread = 0;
    struct stat status;
    return reads && fstat(0, &status) == 0 &&
           (S_ISREG(status.st_mode) || (ioctl(0, FIONREAD, &unread) == 0 && unread > 0));
}

void vm_suspend_begin(bool job_runs, bool reads)
{
    if (!job_runs)
        refuse(ESRCH, "the job does not run");
    else if (vm_clients_busy())
        refuse(EBUSY, "a command or a copy is under way in it");
    else if (has_unread_input(reads))
        refuse(EBUSY, "the job has not read all of its input yet");
    else if (!vm_has_room())
        refuse(EBUSY, "the guest does not take what it is sent");
    else {
        vm_give(0, FRAME_GUEST_FREEZE, NULL, 0);
        asked++;
        until = sys_boottime() / 1000000u + PATIENCE_MS;
    }
}

bool vm_suspend_waits(void)
{
    return until != 0;
}

int vm_suspend_patience(void)
{
    uint64_t now = sys_boottime() / 1000000u;
    return until == 0 ? -1 : now >= until ? 0 : (int)(until - now);
}

static void wake(void)
{
    until = 0;
    vm_give_go();
}

void vm_suspend_late(void)
{
    if (until == 0 || vm_suspend_patience() > 0)
        return;
    wake();
    refuse(ETIMEDOUT, "the guest did not come to stand still in time");
}

void vm_suspend_stopped(void)
{
    if (until == 0)
        return;
    wake();
    refuse(ECANCELED, VM_SUSPEND_STOPPED);
}

bool vm_suspend_is_stopped(int report)
{
    struct pollfd told = {.fd = report, .events = POLLIN};
    return poll(&told, 1, 0) > 0;
}

/* The disks are as the memory has them: QEMU has written what it had, and the host does not lose it with its power. */
static int sync_folder(int folder)
{
    struct dirent *entry;
    int result = 0, copy = fcntl(folder, F_DUPFD_CLOEXEC, 0);
    DIR *list = copy < 0 ? NULL : fdopendir(copy);
    if (list == NULL)
        return -1;
    while ((entry = readdir(list)) != NULL) {
        int fd = openat(folder, entry->d_name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
        struct stat status;
        if (fd >= 0 && fstat(fd, &status) == 0 && S_ISREG(status.st_mode))
            result |= fsync(fd);
        if (fd >= 0)
            close(fd);
    }
    closedir(list);
    return result | fsync(folder);
}

/* 0, or an errno and why. */
static int save(const struct vmm *vmm, const struct vm_options *options, int report, int folder, char *why, size_t size)
{
    int error = 0, at = openat(folder, FOLDER, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    bool fires = options->api != NULL;
    int file = at < 0 || fires ? -1 : openat(at, SCRATCH, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (file < 0 && !(fires && at >= 0)) {
        error = errno;
        snprintf(why, size, "its file cannot be made");
    } else if (fires) {
        error = vm_kept_save(options, report, at, SCRATCH, why, size);
        if (error == 0 && (renameat(at, SCRATCH, at, MEMORY) != 0 || sync_folder(at) != 0))
            error = errno;
    } else if (vm_monitor_save(vmm->monitor, file, report, why, size) != 0) {
        error = errno;
    } else if (fsync(file) != 0 || renameat(at, SCRATCH, at, MEMORY) != 0 || sync_folder(at) != 0) {
        error = errno;
        snprintf(why, size, "it cannot be written");
    }
    if (error == EIO && fallocate(file, 0, lseek(file, 0, SEEK_END), FULL) != 0 && errno == ENOSPC)
        error = ENOSPC; /* QEMU says only that it could not */
    if (error == 0 && vm_suspend_is_stopped(report)) { /* the last moment in which that can come before */
        error = ECANCELED;
        snprintf(why, size, VM_SUSPEND_STOPPED);
    }
    if (error != 0 && at >= 0) {
        unlinkat(at, SCRATCH, 0);
        unlinkat(at, MEMORY, 0);
    }
    if (file >= 0)
        close(file);
    if (at >= 0)
        close(at);
    return error;
}

void vm_suspend_frozen(struct vmm *vmm, const struct vm_options *options, int report, int folder)
{
    char why[512] = "", more[512] = "";
    answered++;
    if (until == 0 || answered != asked)
        return; /* it was given up meanwhile, and has been told so */
    int error = save(vmm, options, report, folder, why, sizeof why);
    if (error == 0) {
        vmm_kill(vmm);
        vm_tell(FRAME_INIT_SUSPENDED, NULL, 0);
        _exit(0);
    }
    bool fires = options->api != NULL;
    if (fires ? !vm_kept_go_on(vmm, options) : vm_monitor_go_on(vmm->monitor, report, more, sizeof more) != 0) {
        refuse(error == ECANCELED ? error : EIO, error == ECANCELED ? why : "it cannot be saved, and its guest cannot go on");
        vm_fail("its guest cannot go on", more);
    }
    if (vmm->channel >= 0)
        wake();
    until = 0;
    refuse(error, why);
}

/* How many signals came before: they are the job's, which hears them when it goes on. -1: nobody wants it. */
static int wait_for_go(int report, uint32_t *stops)
{
    uint8_t bytes[FRAME_HEADER + 4];
    for (int count = 0;;) {
        if (recv(report, bytes, FRAME_HEADER, MSG_WAITALL) != (ssize_t)FRAME_HEADER)
            return -1;
        if (bytes[4] == FRAME_INIT_GO)
            return count;
        if (bytes[4] != FRAME_INIT_SIGNAL || get_u32(bytes) != 4 ||
            recv(report, bytes + FRAME_HEADER, 4, MSG_WAITALL) != 4)
            return -1;
        if (count < STOPS_MOST)
            stops[count++] = get_u32(bytes + FRAME_HEADER);
    }
}

void vm_suspend_restore(struct vmm *vmm, const struct vm_options *options, int report, int folder, int signals)
{
    char why[512] = "";
    uint8_t stamp[8];
    if (vmm_start(vmm, options->argv, &options->owner, &options->place, true) != 0)
        vm_fail("its monitor cannot be started", strerror(errno));
    if (options->kept ? !vm_kept_load(vmm, options, report, folder, signals)
                      : vm_monitor_restore(vmm->monitor, options->restored, report, why, sizeof why) != 0) {
        vmm_listen_to_the_end(&vmm->words, folder);
        const char *words = vmm_last_words();
        vm_fail("its saved state cannot be taken", *vm_fire_problem() != 0 ? vm_fire_problem() : *words != 0 ? words : why);
    }
    /* The shim has the saved state go before anything runs that changes the disks: it is never gone on with twice. */
    put_u64(stamp, sys_realtime());
    vm_tell(FRAME_INIT_STARTED, stamp, sizeof stamp);
    uint32_t stops[STOPS_MOST];
    int count = wait_for_go(report, stops);
    if (count < 0) {
        vmm_kill(vmm);
        _exit(1);
    }
    if (options->kept ? !vm_kept_run() : vm_monitor_go_on(vmm->monitor, report, why, sizeof why) != 0)
        vm_fail("its guest cannot go on", why);
    if (!options->kept)
        vm_give_go();
    for (int i = 0; i < count; i++) {
        put_u32(stamp, stops[i]);
        vm_give(0, FRAME_INIT_SIGNAL, stamp, 4);
    }
}
