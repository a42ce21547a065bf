/* What a job has written comes back as tar streams on a raw disk: src/dms_executor/microvm/outputs.py has the format. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "frame.h"
#include "guest.h"
#include "modes.h"
#include "sys.h"

#define BLOCK 4096
#define FIRST_LENGTH 16

/* One stream from where the disk stands; false where it did not get there whole. */
static bool pack(int disk, unsigned number, bool is_file)
{
    char place[64], here[] = ".", file[] = "file";
    int status;
    snprintf(place, sizeof place, GUEST_OUTPUTS "/%u%s", number, is_file ? "/file" : "");
    pid_t pid = fork();
    if (pid == 0) {
        char *argv[] = {is_file ? file : here, place, NULL};
        sigset_t none;
        sigemptyset(&none);
        sigprocmask(SIG_SETMASK, &none, NULL);
        _exit(dup2(disk, 1) == 1 ? mode_pack(argv) : 1);
    }
    while (pid > 0 && waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    return pid > 0 && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

void guest_outputs_write(const struct guest_config *config)
{
    static uint8_t head[BLOCK];
    char device[64];
    uint32_t count = 0;
    bool is_file[GUEST_VOLUMES] = {false};
    for (size_t i = 0; i < config->volume_count; i++) {
        const struct guest_volume *volume = &config->volumes[i];
        count += guest_is_output(volume);
        if (guest_is_output(volume))
            is_file[volume->size] = volume->kind == VOLUME_OUTPUT_FILE;
    }
    if (count == 0 || config->outputs == NULL)
        return;
    snprintf(device, sizeof device, "/dev/%.32s", config->outputs);
    int disk = open(device, O_RDWR | O_CLOEXEC);
    off_t at = BLOCK;
    for (uint32_t i = 0; i < count; i++) {
        if (disk < 0 || lseek(disk, at, SEEK_SET) != at || !pack(disk, i, is_file[i]))
            return; /* without its first block the disk holds nothing, which the host says */
        off_t end = lseek(disk, 0, SEEK_CUR);
        put_u64(head + FIRST_LENGTH + 8 * i, (uint64_t)(end - at));
        at = (end + BLOCK - 1) / BLOCK * BLOCK;
    }
    memcpy(head, "dmsouts1", 8);
    put_u32(head + 8, count);
    /* The first block last, and all of it there before the host is told anything. */
    if (fsync(disk) == 0 && pwrite(disk, head, BLOCK, 0) == BLOCK)
        fsync(disk);
    close(disk);
}
