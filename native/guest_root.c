#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "guest.h"
#include "sys.h"

#define SAFE (MS_NOSUID | MS_NODEV)
#define SCRIPTS "/dev/.dms-executor-scripts"

int guest_wait_for(const char *path)
{
    for (int tries = 0; tries < GUEST_TRIES; tries++) {
        if (access(path, F_OK) == 0)
            return 0;
        usleep(1000); /* a device's node comes some time after its driver */
    }
    errno = ENOENT;
    return -1;
}

static int make_folder(const char *path)
{
    return mkdir(path, 0755) != 0 && errno != EEXIST ? -1 : 0;
}

/* The writable layer shows its own owner and mode as the root's: those of the image's root. */
static int make_upper(void)
{
    static const char *const reserved[] = {"/layer/upper/proc", "/layer/upper/sys", "/layer/upper/dev"};
    struct stat image;
    if (make_folder("/layer/upper") != 0 || make_folder("/layer/work") != 0 || make_folder("/layer/outputs") != 0 ||
        stat("/image", &image) != 0 || chown("/layer/upper", image.st_uid, image.st_gid) != 0 ||
        chmod("/layer/upper", image.st_mode & 07777) != 0)
        return -1;
    /* A folder there hides whatever the image has in its place: what is mounted must land there. */
    for (size_t i = 0; i < sizeof reserved / sizeof *reserved; i++)
        if (make_folder(reserved[i]) != 0)
            return -1;
    return 0;
}

static int mount_layer(const char *disk)
{
    char device[64];
    if (disk == NULL)
        return mount("layer", "/layer", "tmpfs", 0, "size=0,nr_inodes=0,mode=0755");
    snprintf(device, sizeof device, "/dev/%.32s", disk);
    /* Tables are made as they are used (microvm/scratch.py). */
    return guest_wait_for(device) != 0 ? -1 : mount(device, "/layer", "ext4", 0, "noinit_itable");
}

/* The place in the job's root on which something is mounted, made where it is not there: a folder, or an empty file. No
 * symbolic link is followed: the host has resolved those of the image. */
static int place(const char *target, bool is_folder, char *out, size_t size)
{
    char path[4096];
    int at = open(GUEST_ROOT, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (at < 0 || snprintf(path, sizeof path, "%s", target + 1) >= (int)sizeof path)
        return -1;
    for (char *part = path, *end; part != NULL; part = end) {
        end = strchr(part, '/');
        if (end != NULL)
            *end++ = 0;
        bool folder = end != NULL || is_folder;
        int next, made;
        if (folder && mkdirat(at, part, 0755) != 0 && errno != EEXIST)
            return -1;
        if (!folder && (made = openat(at, part, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0644)) >= 0)
            close(made);
        next = openat(at, part, O_PATH | O_NOFOLLOW | O_CLOEXEC | (folder ? O_DIRECTORY : 0));
        close(at);
        if (next < 0)
            return -1;
        at = next;
    }
    snprintf(out, size, "/proc/self/fd/%d", at); /* left open until the job's init is executed */
    return 0;
}

static int bind_on(const char *source, const char *target, bool is_folder, unsigned long flags)
{
    char there[64];
    if (place(target, is_folder, there, sizeof there) != 0 || mount(source, there, NULL, MS_BIND, NULL) != 0)
        return -1;
    /* The descriptor shows what lies below the new mount: its top is found by the path, in which no link is left. */
    char path[4200];
    snprintf(path, sizeof path, GUEST_ROOT "%s", target);
    return mount(NULL, path, NULL, MS_REMOUNT | MS_BIND | flags, NULL);
}

static const char *numbered(const char *folder, size_t number, char *out, size_t size)
{
    snprintf(out, size, "%s/%zu", folder, number);
    return out;
}

static int mount_image(const char *name, const char *folder)
{
    char device[64];
    snprintf(device, sizeof device, "/dev/%.32s", name);
    return make_folder(folder) != 0 || guest_wait_for(device) != 0 ? -1 : mount(device, folder, "erofs", MS_RDONLY | SAFE, NULL);
}

/* The folder of an output, above what is there already. It is the job's user's, who else could not write to it. */
static int make_output(const struct guest_config *config, size_t number, const char *name, const char *image)
{
    char layer[64], upper[80], work[80], there[64], text[320];
    numbered("/layer/outputs", number, layer, sizeof layer);
    numbered(GUEST_OUTPUTS, number, there, sizeof there);
    snprintf(upper, sizeof upper, "%s/upper", layer);
    snprintf(work, sizeof work, "%s/work", layer);
    if (make_folder(layer) != 0 || make_folder(upper) != 0 || chown(upper, config->uid, config->gid) != 0 ||
        make_folder(GUEST_OUTPUTS) != 0 || make_folder(there) != 0)
        return -1;
    if (name[0] == 0)
        return mount(upper, there, NULL, MS_BIND, NULL);
    snprintf(text, sizeof text, "lowerdir=%s,upperdir=%s,workdir=%s", image, upper, work);
    return make_folder(work) != 0 ? -1 : mount("output", there, "overlay", SAFE, text);
}

/* By the agent, which looks at the outputs when the job has ended. */
static int mount_sources(const struct guest_config *config)
{
    char image[64];
    if (make_folder("/inputs") != 0)
        return -1;
    for (size_t i = 0; i < config->volume_count; i++) {
        const struct guest_volume *volume = &config->volumes[i];
        numbered("/inputs", i, image, sizeof image);
        if (volume->kind != VOLUME_TMPFS && volume->device[0] != 0 && mount_image(volume->device, image) != 0)
            return -1;
        if (guest_is_output(volume) && make_output(config, volume->size, volume->device, image) != 0)
            return -1;
    }
    return 0;
}

const char *guest_root_layers(const struct guest_config *config)
{
    if (make_folder("/image") != 0 || make_folder("/layer") != 0 || make_folder(GUEST_ROOT) != 0)
        return "cannot make folders in the initrd";
    if (guest_wait_for("/dev/vda") != 0 || mount("/dev/vda", "/image", "erofs", MS_RDONLY, NULL) != 0)
        return "cannot mount the root image";
    if (mount_layer(config->disk) != 0 || make_upper() != 0)
        return "cannot mount what the job may write to";
    if (mount("root", GUEST_ROOT, "overlay", 0, "lowerdir=/image,upperdir=/layer/upper,workdir=/layer/work") != 0)
        return "cannot mount the root";
    if (mount_sources(config) != 0)
        return "cannot mount the job's inputs and outputs";
    return NULL;
}

static int mount_volume(size_t index, const struct guest_volume *volume)
{
    char there[64], text[80];
    switch (volume->kind) {
    case VOLUME_FOLDER:
        return bind_on(numbered("/inputs", index, text, sizeof text), volume->target, true, MS_RDONLY | SAFE);
    case VOLUME_FILE:
        snprintf(text, sizeof text, "/inputs/%zu/file", index);
        return bind_on(text, volume->target, false, MS_RDONLY | SAFE);
    case VOLUME_OUTPUT:
        return bind_on(numbered(GUEST_OUTPUTS, volume->size, text, sizeof text), volume->target, true, SAFE);
    case VOLUME_OUTPUT_FILE:
        snprintf(text, sizeof text, GUEST_OUTPUTS "/%llu/file", (unsigned long long)volume->size);
        return bind_on(text, volume->target, false, SAFE);
    case VOLUME_TMPFS:
        break;
    }
    snprintf(text, sizeof text, "mode=1777,size=%llu", (unsigned long long)volume->size);
    return place(volume->target, true, there, sizeof there) != 0 ? -1 : mount("tmpfs", there, "tmpfs", SAFE, text);
}

static int write_file(size_t index, const struct guest_file *file)
{
    char path[64];
    snprintf(path, sizeof path, "/files/%zu", index);
    int fd = make_folder("/files") != 0 ? -1 : open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    if (fd < 0 || sys_write_all(fd, file->bytes, file->length) != 0)
        return -1;
    close(fd);
    return bind_on(path, file->path, false, MS_RDONLY | SAFE | MS_NOEXEC);
}

static int make_devices(void)
{
    static const struct {
        const char *name;
        unsigned minor;
    } nodes[] = {{"null", 3}, {"zero", 5}, {"full", 7}, {"random", 8}, {"urandom", 9}};
    static const char *const links[][2] = {{"/proc/self/fd", "fd"}, {"/proc/self/fd/0", "stdin"}, {"/proc/self/fd/1", "stdout"},
                                           {"/proc/self/fd/2", "stderr"}, {"pts/ptmx", "ptmx"}};
    char path[64];
    mode_t before = umask(0);
    for (size_t i = 0; i < sizeof nodes / sizeof *nodes; i++) {
        snprintf(path, sizeof path, GUEST_ROOT "/dev/%s", nodes[i].name);
        if (mknod(path, S_IFCHR | 0666, makedev(1, nodes[i].minor)) != 0)
            return -1;
    }
    if (mknod(GUEST_ROOT "/dev/tty", S_IFCHR | 0666, makedev(5, 0)) != 0)
        return -1;
    umask(before);
    for (size_t i = 0; i < sizeof links / sizeof *links; i++) {
        snprintf(path, sizeof path, GUEST_ROOT "/dev/%s", links[i][1]);
        if (symlink(links[i][0], path) != 0)
            return -1;
    }
    return make_folder(GUEST_ROOT "/dev/pts") | make_folder(GUEST_ROOT "/dev/shm") | make_folder(GUEST_ROOT "/dev/mqueue");
}

/* As the oci engine has them, and Docker. */
static int mount_system(const struct guest_config *config)
{
    char text[96];
    snprintf(text, sizeof text, "mode=0700,uid=%u,gid=%u", config->uid, config->gid);
    if (mount("proc", GUEST_ROOT "/proc", "proc", SAFE | MS_NOEXEC, NULL) != 0 ||
        mount("sysfs", GUEST_ROOT "/sys", "sysfs", SAFE | MS_NOEXEC | MS_RDONLY, NULL) != 0 ||
        mount("cgroup", GUEST_ROOT "/sys/fs/cgroup", "cgroup2", SAFE | MS_NOEXEC | MS_RDONLY, NULL) != 0 ||
        mount("tmpfs", GUEST_ROOT "/dev", "tmpfs", MS_NOSUID | MS_STRICTATIME, "mode=755,size=65536k") != 0 ||
        make_devices() != 0)
        return -1;
    if (mount("devpts", GUEST_ROOT "/dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620,gid=5") != 0 ||
        mount("shm", GUEST_ROOT "/dev/shm", "tmpfs", SAFE | MS_NOEXEC, "mode=1777,size=65536k") != 0 ||
        mount("mqueue", GUEST_ROOT "/dev/mqueue", "mqueue", SAFE | MS_NOEXEC, NULL) != 0)
        return -1;
    if (config->scripts_length == 0)
        return 0;
    return make_folder(GUEST_ROOT SCRIPTS) != 0 ? -1 : mount("scripts", GUEST_ROOT SCRIPTS, "tmpfs", SAFE, text);
}

/* pivot_root(2) refuses an initrd's root: it is covered instead, as switch_root does. */
static int switch_root(void)
{
    return chdir(GUEST_ROOT) != 0 || mount(".", "/", NULL, MS_MOVE, NULL) != 0 || chroot(".") != 0 || chdir("/") != 0 ? -1 : 0;
}

const char *guest_root_enter(const struct guest_config *config)
{
    static char text[512];
    if (mount_system(config) != 0)
        return "cannot mount the job's system folders";
    for (size_t i = 0; i < config->file_count; i++)
        if (write_file(i, &config->files[i]) != 0) {
            snprintf(text, sizeof text, "cannot write %.400s", config->files[i].path);
            return text;
        }
    for (size_t i = 0; i < config->volume_count; i++)
        if (mount_volume(i, &config->volumes[i]) != 0) {
            snprintf(text, sizeof text, "cannot mount %.400s", config->volumes[i].target);
            return text;
        }
    if (config->flags & GUEST_READ_ONLY && mount(NULL, GUEST_ROOT, NULL, MS_REMOUNT | MS_BIND | MS_RDONLY, NULL) != 0)
        return "cannot make the root read-only";
    return switch_root() == 0 ? NULL : "cannot enter the root";
}
