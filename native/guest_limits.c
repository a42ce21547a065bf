#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>

#include "frame.h"
#include "guest.h"
#include "sys.h"
#include "usage.h"

#define PERIOD 100000u

static int write_number(const char *file, const char *format, uint64_t value)
{
    char path[128], text[64];
    snprintf(path, sizeof path, GUEST_CGROUP "/%s", file);
    int length = snprintf(text, sizeof text, format, (unsigned long long)value, PERIOD);
    return value == 0 ? 0 : sys_write_file(path, text, (size_t)length);
}

/* https://docs.kernel.org/admin-guide/cgroup-v2.html */
const char *guest_limits_set(const struct guest_config *config)
{
    static const char controllers[] = "+cpu +memory +pids +io";
    if ((mkdir("/cgroup", 0755) != 0 && errno != EEXIST) || mount("cgroup2", "/cgroup", "cgroup2", 0, NULL) != 0 ||
        sys_write_file("/cgroup/cgroup.subtree_control", controllers, sizeof controllers - 1) != 0 ||
        mkdir(GUEST_CGROUP, 0755) != 0)
        return "cannot make the job's control group";
    /* A job may ask for more than the guest has, as on a large host: its control group is what bounds it. */
    sys_write_file("/proc/sys/vm/overcommit_memory", "1", 1);
    if (write_number("memory.max", "%llu", config->memory) != 0 || write_number("pids.max", "%llu", config->pids) != 0 ||
        write_number("cpu.max", "%llu %u", config->cpu_us) != 0)
        return "cannot set the job's limits";
    return NULL;
}

void guest_usage(uint8_t *payload)
{
    static const struct usage_source sources[] = {
        {"cpu_us", GUEST_CGROUP "/cpu.stat", "usage_usec"},   {"memory_peak", GUEST_CGROUP "/memory.peak", ""},
        {"oom_kills", GUEST_CGROUP "/memory.events", "oom_kill"}, {"io_read", GUEST_CGROUP "/io.stat", "rbytes"},
        {"io_write", GUEST_CGROUP "/io.stat", "wbytes"},
    };
    struct usage usage;
    memset(&usage, 0, sizeof usage);
    usage_read(sources, sizeof sources / sizeof *sources, &usage);
    put_u64(payload, sys_realtime());
    for (int key = 0; key < USAGE_KEYS; key++)
        put_u64(payload + 8 + 8 * key, usage.known[key] ? usage.value[key] : UINT64_MAX);
}
