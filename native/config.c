#include "config.h"

#include <string.h>
#include <sys/stat.h>

#include "frame.h"

enum tag {
    TAG_VERSION = 1,
    TAG_FOLDER = 2,
    TAG_ARGV = 3,
    TAG_ENV = 4,
    TAG_CGROUP_JOIN = 5,
    TAG_ROOM = 6,
    TAG_UMOUNT = 7,
    TAG_BIND = 8,
    TAG_OVERLAY = 9,
    TAG_STDIN = 10,
    TAG_PASS = 11,
    TAG_REPORT = 12,
    TAG_PIDFILE = 13,
    TAG_TIMEOUT = 14,
    TAG_STOP_SIGNAL = 15,
    TAG_GRACE = 16,
    TAG_LOG_CAP = 17,
    TAG_SEGMENT = 18,
    TAG_USAGE = 19,
    TAG_RMDIR = 20,
    TAG_SYNC = 21,
    TAG_DRAIN = 22,
    TAG_THAW = 23,
    TAG_RESERVE = 24,
    TAG_LOOP = 25,
    TAG_CGROUP_JOIN_FIRST = 26,
    TAG_CGROUP_TOUCH = 27,
    TAG_FORGET = 28,
    TAG_START = 29,
    TAG_IDMAP = 30,
    TAG_HOLD = 31,
    TAG_USERNS = 32,
    TAG_NETWORK = 39,
    TAG_NETWORK_SYSFS = 40,
    TAG_NETWORK_READY = 41,
    TAG_NETWORK_ARGV = 42,
    TAG_INPUT = 43,
    TAG_DEVICE = 47,
    TAG_PATIENCE = 48,
    TAG_SUSPENDS = 49,
    TAG_RESUMED = 50,
};

#define ENTRY_HEADER 8u
#define DEVICE_HEADER 24u
#define NO_DESCRIPTOR UINT32_MAX
#define WEEK_MS (7ull * 24 * 3600 * 1000)
#define YEARS_MS (WEEK_MS * 52 * 100)

/* One entry, its bytes moved down over its own header so that a NUL fits behind them. */
struct entry {
    uint16_t tag;
    uint8_t *bytes;
    size_t length;
};

struct parser {
    const int *fds;
    size_t fd_count;
    bool fd_used[CONFIG_FDS];
    bool versioned;
};

static bool is_string(const struct entry *entry, size_t from)
{
    return entry->length >= from && memchr(entry->bytes + from, 0, entry->length - from) == NULL;
}

/* Splits NUL-separated strings; exactly `count` of them, or false. */
static bool split(const struct entry *entry, const char **out, size_t count)
{
    const char *at = (const char *)entry->bytes, *end = at + entry->length;
    for (size_t i = 0; i < count; i++) {
        if (at > end)
            return false;
        out[i] = at;
        at += strlen(at) + 1; /* the entry ends in a NUL of ours, so this stays within it */
    }
    return at == end + 1;
}

/* Each descriptor serves one purpose: a shared one would be closed under its second user. */
static bool take_fd(struct parser *parser, uint32_t index, int *out)
{
    if (index >= parser->fd_count || index >= CONFIG_FDS || parser->fd_used[index])
        return false;
    parser->fd_used[index] = true;
    *out = parser->fds[index];
    return true;
}

static bool number32(const struct entry *entry, uint32_t *out)
{
    if (entry->length != 4)
        return false;
    *out = get_u32(entry->bytes);
    return true;
}

static bool number64(const struct entry *entry, uint64_t most, uint64_t *out)
{
    if (entry->length != 8)
        return false;
    *out = get_u64(entry->bytes);
    return *out <= most;
}

static bool add_string(const struct entry *entry, const char **list, size_t *count, size_t most)
{
    if (*count >= most || entry->length == 0 || !is_string(entry, 0))
        return false;
    list[(*count)++] = (const char *)entry->bytes;
    return true;
}

static bool add_argument(const struct entry *entry, char **list, size_t *count)
{
    if (*count >= CONFIG_ARGS || !is_string(entry, 0))
        return false;
    list[(*count)++] = (char *)entry->bytes;
    return true;
}

static bool add_mount(struct parser *parser, struct config *config, const struct entry *entry)
{
    if (config->mount_count >= CONFIG_MOUNTS)
        return false;
    struct mount_entry mount = {.fd = -1};
    const char *overlay[4];
    size_t text = 0;
    if (entry->tag == TAG_OVERLAY) {
        mount.kind = MOUNT_OVERLAY;
        if (!split(entry, overlay, 4))
            return false;
        mount.target = overlay[0], mount.lower = overlay[1], mount.upper = overlay[2], mount.work = overlay[3];
    } else {
        mount.kind = entry->tag == TAG_LOOP ? MOUNT_LOOP : MOUNT_BIND;
        text = mount.kind == MOUNT_LOOP ? 4 : 8;
        if (entry->length <= text || !is_string(entry, text) || !take_fd(parser, get_u32(entry->bytes), &mount.fd))
            return false;
        if (mount.kind == MOUNT_BIND)
            mount.flags = get_u32(entry->bytes + 4);
        mount.target = (const char *)entry->bytes + text;
    }
    config->mounts[config->mount_count++] = mount;
    return true;
}

static bool add_device(struct parser *parser, struct config *config, const struct entry *entry)
{
    if (config->mount_count >= CONFIG_MOUNTS || entry->length <= DEVICE_HEADER || !is_string(entry, DEVICE_HEADER))
        return false;
    const uint8_t *at = entry->bytes;
    struct mount_entry mount = {.kind = MOUNT_DEVICE, .fd = -1, .target = (const char *)at + DEVICE_HEADER};
    mount.node = (struct devnode){get_u32(at), get_u32(at + 4), get_u32(at + 8), get_u32(at + 12), get_u32(at + 16)};
    uint32_t type = mount.node.mode & S_IFMT;
    if ((type != S_IFCHR && type != S_IFBLK) || (mount.node.mode & ~type) > 0777 || strchr(mount.target, '/') != NULL)
        return false;
    if (get_u32(at + 20) != NO_DESCRIPTOR && !take_fd(parser, get_u32(at + 20), &mount.fd))
        return false;
    config->mounts[config->mount_count++] = mount;
    return true;
}

static bool add_usage(struct config *config, const struct entry *entry)
{
    const char *part[3];
    if (config->usage_count >= CONFIG_LIST || !split(entry, part, 3))
        return false;
    config->usage[config->usage_count++] = (struct usage_source){part[0], part[1], part[2]};
    return true;
}

static bool add_thaw(struct config *config, const struct entry *entry)
{
    const char *part[2];
    if (config->thaw_count >= CONFIG_LIST || !split(entry, part, 2))
        return false;
    config->thaw[config->thaw_count++] = (struct thaw){part[0], part[1]};
    return true;
}

static bool set_string(const struct entry *entry, const char **out)
{
    *out = (const char *)entry->bytes;
    return *entry->bytes != 0 && is_string(entry, 0);
}

/* A name directly in the room: no path of it leads through what a job could write to. */
static bool set_name(const struct entry *entry, const char **out)
{
    return set_string(entry, out) && strchr(*out, '/') == NULL && **out != '.';
}

static bool set_flag(const struct entry *entry, bool *out)
{
    uint32_t value;
    if (!number32(entry, &value) || value > 1)
        return false;
    *out = value;
    return true;
}

static bool set_input(const struct entry *entry, enum input *out)
{
    uint32_t value;
    if (!number32(entry, &value) || (value != INPUT_PIPE && value != INPUT_TERMINAL))
        return false;
    *out = (enum input)value;
    return true;
}

/* No id of the job's may be one of the host's own first ones. */
static bool set_idmap(const struct entry *entry, struct idmap *out)
{
    if (entry->length != 8)
        return false;
    out->first = get_u32(entry->bytes);
    out->count = get_u32(entry->bytes + 4);
    return out->count > 0 && out->first >= 65536 && out->count <= UINT32_MAX - out->first;
}

static bool set_userns(const struct entry *entry, struct userns *out)
{
    const char *part[4];
    if (!split(entry, part, 4) || part[0][0] != '/' || part[1][0] != '/')
        return false;
    *out = (struct userns){part[0], part[1], part[2], part[3]};
    return true;
}

static bool add_descriptor(struct parser *parser, const struct entry *entry, int *out)
{
    uint32_t index;
    return number32(entry, &index) && take_fd(parser, index, out);
}

static bool apply(struct parser *parser, struct config *config, const struct entry *entry)
{
    uint32_t version;
    switch ((enum tag)entry->tag) {
    case TAG_VERSION:
        parser->versioned = number32(entry, &version) && version == PROTOCOL_VERSION;
        return parser->versioned;
    case TAG_FOLDER:
        return config->folder_fd < 0 && add_descriptor(parser, entry, &config->folder_fd);
    case TAG_ARGV:
        return add_argument(entry, config->argv, &config->argc);
    case TAG_ENV:
        return add_argument(entry, config->env, &config->envc);
    case TAG_CGROUP_JOIN:
        return add_string(entry, config->cgroup_join, &config->cgroup_joins, CONFIG_LIST);
    case TAG_CGROUP_JOIN_FIRST:
        return add_string(entry, config->cgroup_join_first, &config->cgroup_joins_first, CONFIG_LIST);
    case TAG_CGROUP_TOUCH:
        return set_string(entry, &config->cgroup_touch);
    case TAG_FORGET:
        return add_string(entry, config->forgets, &config->forget_count, CONFIG_LIST);
    case TAG_ROOM:
        return set_string(entry, &config->room) && config->room[0] == '/';
    case TAG_UMOUNT:
        return add_string(entry, config->umounts, &config->umount_count, CONFIG_LIST);
    case TAG_BIND:
    case TAG_OVERLAY:
    case TAG_LOOP:
        return add_mount(parser, config, entry);
    case TAG_DEVICE:
        return add_device(parser, config, entry);
    case TAG_STDIN:
        return config->stdin_fd < 0 && add_descriptor(parser, entry, &config->stdin_fd);
    case TAG_INPUT:
        return set_input(entry, &config->input);
    case TAG_PASS:
        return config->pass_count < CONFIG_PASS && add_descriptor(parser, entry, &config->pass[config->pass_count++]);
    case TAG_REPORT:
        return set_flag(entry, &config->report);
    case TAG_PIDFILE:
        return set_string(entry, &config->pidfile) && strchr(config->pidfile, '/') == NULL;
    case TAG_TIMEOUT:
        return number64(entry, YEARS_MS, &config->timeout_ms);
    case TAG_STOP_SIGNAL:
        return number32(entry, &config->stop_signal) && config->stop_signal >= 1 && config->stop_signal <= 64;
    case TAG_GRACE:
        return number64(entry, YEARS_MS, &config->grace_ms);
    case TAG_LOG_CAP:
        return number64(entry, INT64_MAX, &config->log_cap);
    case TAG_SEGMENT:
        return number64(entry, INT64_MAX, &config->segment);
    case TAG_USAGE:
        return add_usage(config, entry);
    case TAG_RMDIR:
        return add_string(entry, config->rmdirs, &config->rmdir_count, CONFIG_LIST);
    case TAG_SYNC:
        return set_flag(entry, &config->sync);
    case TAG_START:
        return number64(entry, WEEK_MS, &config->start_ms);
    case TAG_IDMAP:
        return set_idmap(entry, &config->idmap);
    case TAG_HOLD:
        return config->hold_fd < 0 && add_descriptor(parser, entry, &config->hold_fd);
    case TAG_USERNS:
        return set_userns(entry, &config->userns);
    case TAG_NETWORK:
        return set_name(entry, &config->network_pin);
    case TAG_NETWORK_SYSFS:
        return set_name(entry, &config->network_sysfs);
    case TAG_NETWORK_READY:
        return set_name(entry, &config->network_ready);
    case TAG_NETWORK_ARGV:
        return add_argument(entry, config->network_argv, &config->network_argc);
    case TAG_DRAIN:
        return number64(entry, WEEK_MS, &config->drain_ms);
    case TAG_THAW:
        return add_thaw(config, entry);
    case TAG_PATIENCE:
        return number64(entry, WEEK_MS, &config->patience_ms);
    case TAG_SUSPENDS:
        return set_flag(entry, &config->suspends);
    case TAG_RESUMED:
        return number64(entry, INT64_MAX, &config->resumed);
    case TAG_RESERVE:
        return number64(entry, 1024 * 1024, &config->reserve);
    }
    return false;
}

static const char *whole(const struct parser *parser, const struct config *config)
{
    if (!parser->versioned)
        return "CONFIG of another version";
    if (config->argc == 0)
        return "CONFIG without ARGV";
    for (size_t i = 0; i < config->mount_count; i++)
        if (config->mounts[i].flags & BIND_IDMAPPED && config->idmap.count == 0)
            return "CONFIG with an id-mapped mount and without IDMAP";
    if (config->network_pin != NULL && config->room == NULL)
        return "CONFIG with NETWORK and without ROOM";
    if (config->network_argc > 0 && (config->network_pin == NULL || config->network_ready == NULL))
        return "CONFIG with NETWORK_ARGV and without NETWORK or NETWORK_READY";
    if (config->mount_count > 0 && config->room == NULL)
        return "CONFIG with mounts and without ROOM";
    if (config->input == INPUT_TERMINAL && (!config->report || config->stdin_fd >= 0))
        return "CONFIG with a terminal and without REPORT, or with STDIN";
    if (config->userns.newuidmap != NULL && config->idmap.count > 0)
        return "CONFIG with both USERNS and IDMAP";
    return NULL;
}

const char *config_parse(uint8_t *payload, size_t length, const int *fds, size_t fd_count, struct config *config)
{
    struct parser parser = {.fds = fds, .fd_count = fd_count};
    config->stdin_fd = config->folder_fd = config->hold_fd = -1;
    config->report = true;
    config->stop_signal = 15;
    config->log_cap = 1ull << 30;
    config->segment = 64ull << 20;
    config->reserve = 4096;
    config->patience_ms = 500;
    size_t at = 0;
    while (at < length) {
        if (length - at < ENTRY_HEADER)
            return "CONFIG is cut short";
        uint8_t *header = payload + at;
        struct entry entry = {.tag = (uint16_t)(header[0] | header[1] << 8), .length = get_u32(header + 4)};
        if (header[2] != 0 || header[3] != 0 || entry.length > length - at - ENTRY_HEADER)
            return "CONFIG has a damaged entry";
        at += ENTRY_HEADER + entry.length;
        entry.bytes = header;
        memmove(entry.bytes, header + ENTRY_HEADER, entry.length);
        entry.bytes[entry.length] = 0;
        if (!apply(&parser, config, &entry))
            return "CONFIG has an entry that is not valid";
    }
    return whole(&parser, config);
}
