#include "usage.h"

#include <fcntl.h>
#include <string.h>

#include "sys.h"

static bool digit(char c)
{
    return c >= '0' && c <= '9';
}

static uint64_t decimal(const char *at)
{
    uint64_t value = 0;
    for (; digit(*at); at++) {
        uint64_t next = value * 10 + (uint64_t)(*at - '0');
        if (value > UINT64_MAX / 10 || next < value * 10)
            return UINT64_MAX;
        value = next;
    }
    return value;
}

bool usage_number(const char *text, const char *field, uint64_t *out)
{
    size_t length = strlen(field);
    bool found = false;
    *out = 0;
    if (length == 0) {
        while (*text != 0 && !digit(*text))
            text++;
        *out = decimal(text);
        return *text != 0;
    }
    for (const char *at = strstr(text, field); at != NULL; at = strstr(at + 1, field)) {
        bool start = at == text || at[-1] == ' ' || at[-1] == '\n' || at[-1] == '\t';
        if (!start || (at[length] != ' ' && at[length] != '=') || !digit(at[length + 1]))
            continue;
        uint64_t value = decimal(at + length + 1);
        *out = *out + value < *out ? UINT64_MAX : *out + value;
        found = true;
    }
    return found;
}

static bool key_of(const char *name, enum usage_key *key, uint64_t *factor)
{
    static const struct {
        const char *name;
        enum usage_key key;
        uint64_t factor;
    } keys[] = {
        {"cpu_ns", USAGE_CPU, 1},      {"cpu_us", USAGE_CPU, 1000},     {"memory_peak", USAGE_MEMORY, 1},
        {"oom_kills", USAGE_OOM, 1},   {"io_read", USAGE_READ, 1},      {"io_write", USAGE_WRITE, 1},
    };
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        if (strcmp(keys[i].name, name) != 0)
            continue;
        *key = keys[i].key;
        *factor = keys[i].factor;
        return true;
    }
    return false;
}

void usage_read(const struct usage_source *sources, size_t count, struct usage *usage)
{
    static char text[16384];
    for (size_t i = 0; i < count; i++) {
        enum usage_key key;
        uint64_t factor, value;
        if (!key_of(sources[i].key, &key, &factor) || usage->known[key])
            continue;
        if (sys_read_file(AT_FDCWD, sources[i].path, text, sizeof text) < 0)
            continue;
        /* io.stat has a line for each device that was used: none is zero. */
        bool summed = key == USAGE_READ || key == USAGE_WRITE;
        if (!usage_number(text, sources[i].field, &value) && !summed)
            continue;
        usage->known[key] = true;
        usage->value[key] = value > UINT64_MAX / factor ? UINT64_MAX : value * factor;
    }
}
