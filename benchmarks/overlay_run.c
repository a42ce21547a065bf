/* The bare side's overlay: a private mount namespace, one overlay, then the runtime in it.
 * usage: overlay_run LOWER UPPER WORK MERGED OWNER DETACH ARGV...
 * OWNER: whose the upper layer is; DETACH: a path to unmount there (to cover, in a user namespace), "-" for none */
#define _GNU_SOURCE
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    char options[4096];
    if (argc < 8)
        return 2;
    mkdir(argv[2], 0755);
    mkdir(argv[3], 0700);
    if (chown(argv[2], (uid_t)atol(argv[5]), (gid_t)atol(argv[5])))
        return perror("overlay_run: chown"), 1;
    /* Root of the host keeps the overlay's notes where nobody else can write them. */
    FILE *map = fopen("/proc/self/uid_map", "r");
    unsigned inside, outside = 0;
    int ours = map && fscanf(map, "%u %u", &inside, &outside) == 2 && outside != 0;
    snprintf(options, sizeof options, "lowerdir=%s,upperdir=%s,workdir=%s%s", argv[1], argv[2], argv[3], ours ? ",userxattr" : "");
    if (unshare(CLONE_NEWNS) || mount(0, "/", 0, MS_REC | MS_PRIVATE, 0) || mount("overlay", argv[4], "overlay", 0, options))
        return perror("overlay_run"), 1;
    if (argv[6][0] == '/' && (ours ? mount("tmpfs", argv[6], "tmpfs", 0, "size=1m") : umount2(argv[6], MNT_DETACH)))
        return perror("overlay_run: umount"), 1;
    execv(argv[7], argv + 7);
    return perror("overlay_run: exec"), 1;
}
