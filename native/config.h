/* The CONFIG payload, decoded in place: strings of `struct config` point into the payload's own bytes. */
#ifndef DMS_CONFIG_H
#define DMS_CONFIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "devnodes.h"
#include "idmap.h"
#include "userns.h"

enum { CONFIG_ARGS = 1024, CONFIG_FDS = 253, CONFIG_LIST = 32, CONFIG_MOUNTS = 250, CONFIG_PASS = 32 };

enum input { INPUT_NONE, INPUT_PIPE, INPUT_TERMINAL };
enum mount_kind { MOUNT_BIND, MOUNT_OVERLAY, MOUNT_LOOP, MOUNT_DEVICE };
enum { BIND_READ_ONLY = 1, BIND_RECURSIVE = 2, BIND_RESTRICTED = 4, BIND_IDMAPPED = 8 };

struct mount_entry {
    enum mount_kind kind;
    int fd; /* the source, -1 where a DEVICE has none; after mounts_clone() the detached copy of it */
    uint32_t flags;
    struct devnode node;
    const char *target, *lower, *upper, *work;
};

struct usage_source {
    const char *key, *path, *field;
};

struct thaw {
    const char *path, *text;
};

struct config {
    char *argv[CONFIG_ARGS + 1], *env[CONFIG_ARGS + 1];
    size_t argc, envc;
    const char *cgroup_join[CONFIG_LIST], *cgroup_join_first[CONFIG_LIST], *umounts[CONFIG_LIST], *rmdirs[CONFIG_LIST];
    const char *forgets[CONFIG_LIST];
    size_t cgroup_joins, cgroup_joins_first, umount_count, rmdir_count, forget_count;
    const char *room, *pidfile, *cgroup_touch;
    const char *network_pin, *network_sysfs, *network_ready;
    char *network_argv[CONFIG_ARGS + 1];
    size_t network_argc;
    struct mount_entry mounts[CONFIG_MOUNTS];
    size_t mount_count;
    struct usage_source usage[CONFIG_LIST];
    size_t usage_count;
    struct thaw thaw[CONFIG_LIST];
    size_t thaw_count;
    struct idmap idmap;
    struct userns userns;
    int stdin_fd, folder_fd, hold_fd, pass[CONFIG_PASS];
    size_t pass_count;
    enum input input;
    bool report, sync, suspends;
    uint64_t timeout_ms, grace_ms, drain_ms, start_ms, log_cap, segment, reserve;
    uint64_t patience_ms; /* that the init has for killing the job itself */
    uint64_t resumed; /* when the job started that goes on here, 0: it starts */
    uint32_t stop_signal;
};

/* NULL, or what is wrong with it (a static text). */
const char *config_parse(uint8_t *payload, size_t length, const int *fds, size_t fd_count, struct config *config);

#endif
