#include <string.h>

#include "frame.h"
#include "guest.h"

enum tag {
    TAG_VERSION = 1,
    TAG_ARGV = 2,
    TAG_ENV = 3,
    TAG_DIRECTORY = 4,
    TAG_USER = 5,
    TAG_HOSTNAME = 6,
    TAG_FLAGS = 8,
    TAG_TERMINAL = 9,
    TAG_SCRIPTS = 10,
    TAG_LIMITS = 11,
    TAG_FILE = 12,
    TAG_DISK = 13,
    TAG_VOLUME = 14,
    TAG_CAPABILITIES = 15,
    TAG_OUTPUTS = 16,
    TAG_FILTER = 17,
    TAG_NETWORK = 18,
};

#define ENTRY_HEADER 8u
#define VOLUME_HEADER 12u

/* One entry, its bytes moved down over its own header so that a NUL fits behind them. */
struct entry {
    uint16_t tag;
    uint8_t *bytes;
    size_t length;
};

static bool add(const struct entry *entry, char **list, size_t *count)
{
    if (*count >= GUEST_ARGS || memchr(entry->bytes, 0, entry->length) != NULL)
        return false;
    list[(*count)++] = (char *)entry->bytes;
    return true;
}

static bool text(const struct entry *entry, const char **out)
{
    *out = (const char *)entry->bytes;
    return entry->length > 0 && memchr(entry->bytes, 0, entry->length) == NULL;
}

static bool set_user(const struct entry *entry, struct guest_config *config)
{
    if (entry->length < 8 || entry->length % 4 != 0 || entry->length / 4 - 2 > GUEST_GROUPS)
        return false;
    config->uid = get_u32(entry->bytes);
    config->gid = get_u32(entry->bytes + 4);
    config->group_count = entry->length / 4 - 2;
    for (size_t i = 0; i < config->group_count; i++)
        config->groups[i] = get_u32(entry->bytes + 8 + 4 * i);
    return true;
}

static bool add_file(const struct entry *entry, struct guest_config *config)
{
    const uint8_t *end = memchr(entry->bytes, 0, entry->length);
    if (config->file_count >= GUEST_FILES || end == NULL || entry->bytes[0] != '/')
        return false;
    config->files[config->file_count++] = (struct guest_file){
        .path = (const char *)entry->bytes,
        .bytes = end + 1,
        .length = entry->length - (size_t)(end + 1 - entry->bytes),
    };
    return true;
}

static bool add_volume(const struct entry *entry, struct guest_config *config)
{
    if (config->volume_count >= GUEST_VOLUMES || entry->length <= VOLUME_HEADER)
        return false;
    struct guest_volume volume = {.kind = get_u32(entry->bytes), .size = get_u64(entry->bytes + 4)};
    volume.device = (const char *)entry->bytes + VOLUME_HEADER;
    const uint8_t *end = memchr(volume.device, 0, entry->length - VOLUME_HEADER);
    if (end == NULL || volume.kind < VOLUME_FOLDER || volume.kind > VOLUME_OUTPUT_FILE ||
        (guest_is_output(&volume) && volume.size >= GUEST_VOLUMES))
        return false;
    volume.target = (const char *)end + 1;
    config->volumes[config->volume_count++] = volume;
    return volume.target[0] == '/' && strlen(volume.target) == entry->length - (size_t)(end + 1 - entry->bytes);
}

static bool set_limits(const struct entry *entry, struct guest_config *config)
{
    if (entry->length != 24)
        return false;
    config->memory = get_u64(entry->bytes);
    config->pids = get_u64(entry->bytes + 8);
    config->cpu_us = get_u64(entry->bytes + 16);
    return true;
}

static bool apply(const struct entry *entry, struct guest_config *config, bool *versioned)
{
    switch ((enum tag)entry->tag) {
    case TAG_VERSION:
        *versioned = entry->length == 4 && get_u32(entry->bytes) == PROTOCOL_VERSION;
        return *versioned;
    case TAG_ARGV:
        return add(entry, config->argv, &config->argc);
    case TAG_ENV:
        return add(entry, config->env, &config->envc);
    case TAG_DIRECTORY:
        return text(entry, &config->directory);
    case TAG_USER:
        return set_user(entry, config);
    case TAG_HOSTNAME:
        return text(entry, &config->hostname);
    case TAG_FLAGS:
        config->flags = entry->length == 4 ? get_u32(entry->bytes) : 0;
        return entry->length == 4;
    case TAG_TERMINAL:
        return text(entry, &config->terminal);
    case TAG_SCRIPTS:
        config->scripts = entry->bytes;
        config->scripts_length = entry->length;
        return true;
    case TAG_FILTER:
        config->filter = entry->bytes;
        config->filter_length = entry->length;
        return true;
    case TAG_NETWORK:
        config->network = entry->bytes;
        return entry->length == 16;
    case TAG_LIMITS:
        return set_limits(entry, config);
    case TAG_FILE:
        return add_file(entry, config);
    case TAG_DISK:
        return text(entry, &config->disk);
    case TAG_OUTPUTS:
        return text(entry, &config->outputs);
    case TAG_VOLUME:
        return add_volume(entry, config);
    case TAG_CAPABILITIES:
        config->capabilities = entry->length == 8 ? get_u64(entry->bytes) : 0;
        return entry->length == 8;
    }
    return false;
}

const char *guest_config_parse(uint8_t *payload, size_t length, struct guest_config *config)
{
    bool versioned = false;
    memset(config, 0, sizeof *config);
    config->directory = "/";
    config->hostname = "localhost";
    for (size_t at = 0; at < length;) {
        if (length - at < ENTRY_HEADER)
            return "cannot read its configuration: it is cut short";
        uint8_t *header = payload + at;
        struct entry entry = {.tag = (uint16_t)(header[0] | header[1] << 8), .length = get_u32(header + 4)};
        if (header[2] != 0 || header[3] != 0 || entry.length > length - at - ENTRY_HEADER)
            return "cannot read its configuration: an entry is damaged";
        at += ENTRY_HEADER + entry.length;
        entry.bytes = header;
        memmove(entry.bytes, header + ENTRY_HEADER, entry.length);
        entry.bytes[entry.length] = 0;
        if (!apply(&entry, config, &versioned))
            return "cannot read its configuration: an entry is not valid";
    }
    if (!versioned || config->argc == 0)
        return "cannot read its configuration: version or command are missing";
    return NULL;
}
