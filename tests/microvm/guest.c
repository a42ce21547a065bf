/* Pid 1 of a test's guest: loads the modules of the initrd, mounts root image and disk, runs /guest.sh there, writes the
 * tar that it left in /out.tar to the disk of the outputs, reboots. What goes wrong is said on the console. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static void must(int failed, const char *what)
{
    if (!failed)
        return;
    printf("guest: %s: %s\n", what, strerror(errno));
    fflush(stdout);
    reboot(RB_AUTOBOOT);
    exit(1);
}

static void load_modules(void)
{
    char name[256], path[300];
    FILE *order = fopen("/modules/order", "r");
    must(order == NULL, "/modules/order");
    while (fscanf(order, "%255s", name) == 1) {
        snprintf(path, sizeof path, "/modules/%s", name);
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        must(fd < 0 || syscall(SYS_finit_module, fd, "", 0) != 0, path);
        close(fd);
    }
    fclose(order);
}

/* A disk is there a moment after its driver. */
static int opened(const char *path, int flags)
{
    int fd = open(path, flags);
    for (int tries = 0; fd < 0 && errno == ENOENT && tries < 500; tries++) {
        usleep(10000);
        fd = open(path, flags);
    }
    must(fd < 0, path);
    return fd;
}

static void run_script(void)
{
    pid_t pid = fork();
    if (pid == 0) {
        must(chroot("/job") != 0 || chdir("/") != 0, "chroot");
        execl("/bin/busybox", "sh", "/guest.sh", NULL);
        must(1, "/guest.sh");
    }
    int status = 0;
    must(waitpid(pid, &status, 0) != pid, "waitpid");
    errno = 0;
    must(status != 0, "the script failed");
}

static void write_outputs(const char *from, const char *device)
{
    static char block[4096];
    int tar = open(from, O_RDONLY), disk = opened(device, O_WRONLY);
    must(tar < 0, from);
    uint64_t length = 0;
    ssize_t got;
    while ((got = read(tar, block, sizeof block)) > 0) {
        must(pwrite(disk, block, (size_t)got, (off_t)(4096 + length)) != got, device);
        length += (uint64_t)got;
    }
    must(fsync(disk) != 0, device);
    const uint32_t counts[2] = {1, 0};
    memset(block, 0, sizeof block);
    memcpy(block, "dmsouts1", 8);
    memcpy(block + 8, counts, 8);
    memcpy(block + 16, &length, 8);
    must(pwrite(disk, block, sizeof block, 0) != (ssize_t)sizeof block || fsync(disk) != 0, device);
}

int main(void)
{
    must(mount("dev", "/dev", "devtmpfs", 0, NULL) != 0 && errno != EBUSY, "devtmpfs");
    load_modules();
    close(opened("/dev/vda", O_RDONLY));
    close(opened("/dev/vdb", O_RDONLY));
    must(mkdir("/job", 0755) || mkdir("/image", 0755) || mkdir("/disk", 0755), "mkdir");
    must(mount("/dev/vda", "/image", "erofs", MS_RDONLY, NULL) != 0, "root image");
    must(mount("/dev/vdb", "/disk", "ext4", 0, "noinit_itable") != 0, "disk");
    must(mkdir("/disk/upper", 0755) || mkdir("/disk/work", 0755), "mkdir");
    must(mount("overlay", "/job", "overlay", 0, "lowerdir=/image,upperdir=/disk/upper,workdir=/disk/work") != 0, "overlay");
    must(mount("dev", "/job/dev", "devtmpfs", 0, NULL) != 0, "devtmpfs");
    must(mount("proc", "/job/proc", "proc", 0, NULL) != 0, "proc");
    run_script();
    write_outputs("/job/out.tar", "/dev/vdc");
    sync();
    reboot(RB_AUTOBOOT);
    return 1;
}
