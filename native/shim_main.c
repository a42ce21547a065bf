#include <string.h>
#include <unistd.h>

#include "modes.h"
#include "sys.h"
#include "userns.h"

static int usage(void)
{
    static const char text[] = "usage: dms-shim run [NEWUIDMAP NEWGIDMAP UID_MAP GID_MAP] | tether ARGV... | keeper [-j CGROUP_PROCS]... SECONDS ARGV... |\n"
                               "  look [-j] PATH | pack [-j] [-L] NAME PATH | unpack [-j] [-o] [-s] FOLDER |\n"
                               "  userns NEWUIDMAP NEWGIDMAP UID_MAP GID_MAP ARGV...\n";
    return sys_write_all(2, text, sizeof text - 1) == 0 ? 2 : 3;
}

int main(int argc, char **argv)
{
    if ((argc == 2 || argc == 6) && strcmp(argv[1], "run") == 0) {
        sys_close_from(3);
        return mode_run(argc == 6 ? argv + 2 : NULL);
    }
    if (argc >= 3 && strcmp(argv[1], "tether") == 0) {
        sys_close_from(4);
        return mode_tether(argv + 2);
    }
    if (argc >= 4 && strcmp(argv[1], "keeper") == 0)
        return mode_keeper(argv + 2);
    if (argc >= 3 && strcmp(argv[1], "look") == 0)
        return mode_look(argv + 2);
    if (argc >= 4 && strcmp(argv[1], "pack") == 0)
        return mode_pack(argv + 2);
    if (argc >= 3 && strcmp(argv[1], "unpack") == 0)
        return mode_unpack(argc - 1, argv + 1);
    if (argc >= 7 && strcmp(argv[1], "userns") == 0)
        return mode_userns(argv + 2);
    return usage();
}
