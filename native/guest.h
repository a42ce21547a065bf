/* The agent of a guest: pid 1 of its initrd. It makes the job's root and namespaces and carries its streams. */
#ifndef DMS_GUEST_H
#define DMS_GUEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "frame.h"

#define GUEST_ROOT "/root" /* where the job's root is put together */
#define GUEST_CGROUP "/cgroup/job"
#define GUEST_OUTPUTS "/outputs" /* by their number */

enum { GUEST_ARGS = 4096, GUEST_GROUPS = 64, GUEST_FILES = 8, GUEST_VOLUMES = 64 };
enum { GUEST_READ_ONLY = 1, GUEST_INPUT = 2, GUEST_HELPER = 4, GUEST_ATTACH = 8 };
enum guest_volume_kind { VOLUME_FOLDER = 1, VOLUME_FILE = 2, VOLUME_TMPFS = 3, VOLUME_OUTPUT = 4, VOLUME_OUTPUT_FILE = 5 };

struct guest_volume {
    enum guest_volume_kind kind;
    uint64_t size; /* of a tmpfs, 0: no limit of its own; of an output its number */
    const char *device, *target; /* an output may have none, and begins empty */
};

struct guest_file {
    const char *path;
    const uint8_t *bytes;
    size_t length;
};

static inline bool guest_is_output(const struct guest_volume *volume)
{
    return volume->kind == VOLUME_OUTPUT || volume->kind == VOLUME_OUTPUT_FILE;
}

/* What the host says of the job; docs/protocol.md, section 10. Strings point into the payload. */
struct guest_config {
    char *argv[GUEST_ARGS + 1], *env[GUEST_ARGS + 1];
    size_t argc, envc;
    const char *directory, *hostname, *disk, *outputs, *terminal;
    uid_t uid;
    gid_t gid, groups[GUEST_GROUPS];
    size_t group_count;
    uint32_t flags;
    uint64_t memory, pids, cpu_us, capabilities;
    const uint8_t *network; /* address, mask, gateway, 4 bytes each, and a u32, the MTU; or NULL */
    const uint8_t *scripts, *filter; /* `filter`: of seccomp, compiled */
    size_t scripts_length, filter_length;
    struct guest_file files[GUEST_FILES];
    size_t file_count;
    struct guest_volume volumes[GUEST_VOLUMES];
    size_t volume_count;
};

/* guest_config.c: NULL, or what is wrong with it. */
const char *guest_config_parse(uint8_t *payload, size_t length, struct guest_config *config);

/* guest_root.c: what cannot be done, with errno, or NULL. The first of the two is done by the agent, the second in the
 * namespaces of the job, whose root is `/` afterwards. */
const char *guest_root_layers(const struct guest_config *config);
const char *guest_root_enter(const struct guest_config *config);
int guest_wait_for(const char *path); /* 0 once it is there */

/* guest_wake.c: what cannot be done, with errno, or NULL. Told to wake for the first time, its driver lets go of the disks,
 * for a snapshot; for the second, in a clone of that, takes them again, whose size, content and all it finds only now.
 * `called`: the way to the host is a call, by vsock: such a guest keeps its disks, and waits for their new sizes. */
struct frame;
const char *guest_wake(bool called);
bool guest_is_template(void); /* told once, and not again */
const char *guest_begin(const struct frame *go);

/* guest_freeze.c: the job stands still and the agent says nothing from FROZEN on, until the host's word goes. */
void guest_freeze(void);
void guest_thaw(const struct frame *go);
bool guest_is_frozen(void);

/* guest_network.c: the loopback, too */
const char *guest_network_up(const struct guest_config *config);

/* guest_limits.c */
const char *guest_limits_set(const struct guest_config *config);
void guest_usage(uint8_t *payload); /* of INIT_USAGE */

/* guest_outputs.c: after the job's end */
void guest_outputs_write(const struct guest_config *config);

struct pollfd;

/* A job, or a further command in it. */
struct guest_job {
    pid_t init;
    int report, streams[2], input; /* `input`: where its stdin is written to, -1 without one */
    bool terminal, hung_up;        /* streams[0] is a terminal's master; which nobody holds just now */
    uint8_t said[FRAME_HEADER + 4 + FRAME_TEXT_MAX]; /* on the report, not whole yet */
    size_t said_length;
};
enum { GUEST_TRIES = 120000 }; /* of a millisecond and more, that a device may need on a host which has no time for us */
enum { GUEST_FROM = 200 }; /* where descriptors are put before a child places them */
#define GUEST_NO_JOB {.report = -1, .streams = {-1, -1}, .input = -1}

/* guest_job.c: the job's init, as pid 1 of its namespaces. `sources`: what it gets as 0 to 2, from GUEST_FROM up. */
const char *guest_streams_open(const struct guest_config *config, struct guest_job *job, int sources[3]);
const char *guest_job_start(const struct guest_config *config, struct guest_job *job);

/* A further command in the job's namespaces, in the control group of that number within the job's. */
const char *guest_command_start(const struct guest_config *config, pid_t init, unsigned group, struct guest_job *command);

/* guest_streams.c: what both of them say and write, and a terminal in the place of their streams. */
enum { HEARD, NOTHING_NEW, HUNG_UP };
typedef void guest_said(void *whom, const struct frame *frame);
int guest_hear(struct guest_job *job, guest_said *said, void *whom); /* one receive of the report; HUNG_UP: it is closed */
bool guest_streams_over(const struct guest_job *job);
void guest_streams_close(struct guest_job *job);
bool guest_stream_over(struct guest_job *job, int index, ssize_t got); /* after a read of it that gave `got`; closed, then */
void guest_resize(const struct guest_job *job, const uint8_t *size);

/* guest_groups.c: the control groups of further commands, within the job's */
unsigned guest_group_make(void); /* its number, 0 with errno */
void guest_group_kill(unsigned number);
bool guest_group_drop(unsigned number); /* false: something is in it still */

/* guest_modes.c: the words of a helper; its exit code. `in_job`: of `read`, which the others have as an option. */
int guest_mode(int argc, char **argv, bool in_job);

/* guest_files.c: a helper for copies with the job's view of its files. It is a child, reports nothing, and ends. */
const char *guest_helper_start(const struct guest_config *config, pid_t init, unsigned group, struct guest_job *helper);

/* guest_session.c: further commands, each on a channel of its own */
enum { SESSIONS = 64, SESSION_POLLS = 4 * SESSIONS };
void sessions_hear(const struct frame *frame, pid_t init);
void sessions_wait(struct pollfd *out);
void sessions_serve(const struct pollfd *waited);
void sessions_reaped(pid_t pid, int status);
int sessions_patience(void); /* ms until one of them wants to be served, -1: none does */

/* guest_port.c: finds the way to the host */
void link_open(const char *name);
bool link_is_call(void);
bool link_call_again(void); /* once the last call has ended */

/* guest_link.c: what goes that way */
void link_use(int fd);
bool link_has_room(void); /* for a whole frame of data, and what else has to be said */
bool link_is_busy(void);  /* something waits to be sent */
int link_fd(void);
void link_flush(void);
void link_put(uint8_t type, const uint8_t *payload, size_t length);
void link_put_on(uint16_t channel, uint8_t type, const uint8_t *payload, size_t length);
ssize_t link_carry(uint8_t type, int from); /* one read of `from` as one frame; as read(2) */
ssize_t link_carry_on(uint16_t channel, uint8_t type, int from, size_t most);

#endif
