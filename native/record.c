#include "record.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "complain.h"
#include "json.h"
#include "sys.h"

static int folder_fd = -1, record_fd = -1;

int record_reserve(int folder, uint64_t bytes)
{
    folder_fd = folder;
    record_fd = openat(folder, "exit.tmp", O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (record_fd < 0)
        return -1;
    if (bytes == 0 || fallocate(record_fd, 0, 0, (off_t)bytes) == 0 || errno == EOPNOTSUPP || errno == EINVAL)
        return 0;
    int error = errno;
    record_discard();
    errno = error;
    return -1;
}

void record_discard(void)
{
    close(record_fd);
    unlinkat(folder_fd, "exit.tmp", 0);
}

static void add_usage(struct json *json, const struct usage *usage)
{
    static const char *const names[USAGE_KEYS] = {
        [USAGE_CPU] = "cpu_ns", [USAGE_MEMORY] = "memory_peak", [USAGE_READ] = "io_read", [USAGE_WRITE] = "io_write"};
    const char *separator = "";
    json_add(json, ",\"usage\":{");
    for (int i = 0; i < USAGE_KEYS; i++) {
        if (!usage->known[i] || names[i] == NULL)
            continue;
        json_add(json, "%s\"%s\":%llu", separator, names[i], (unsigned long long)usage->value[i]);
        separator = ",";
    }
    json_add(json, "}");
}

static void add_number_or_null(struct json *json, const char *name, bool known, uint64_t value)
{
    if (known)
        json_add(json, ",\"%s\":%llu", name, (unsigned long long)value);
    else
        json_add(json, ",\"%s\":null", name);
}

static void add_text_or_null(struct json *json, const char *name, const char *text)
{
    json_add(json, ",\"%s\":", name);
    if (text == NULL)
        json_add(json, "null");
    else
        json_string(json, text);
}

static void encode(struct json *json, const struct record *record)
{
    static const char *const causes[] = {[CAUSE_NONE] = NULL, [CAUSE_DEADLINE] = "deadline", [CAUSE_STOP] = "stop"};
    json_add(json, "{\"version\":1");
    add_number_or_null(json, "code", record->code >= 0, (uint64_t)record->code);
    add_number_or_null(json, "signal", record->signal > 0, (uint64_t)record->signal);
    add_number_or_null(json, "oom_kills", true, record->usage.value[USAGE_OOM]);
    add_text_or_null(json, "stopped_by", causes[record->stopped_by]);
    json_add(json, ",\"killed\":%s", record->killed ? "true" : "false");
    add_text_or_null(json, "lost", record->lost);
    add_number_or_null(json, "started_at", record->started_at != 0, record->started_at);
    add_number_or_null(json, "finished_at", true, record->finished_at);
    add_text_or_null(json, "error", record->error);
    if (record->error_number != 0)
        add_number_or_null(json, "errno", true, (uint64_t)record->error_number);
    add_usage(json, &record->usage);
    json_add(json, "}\n");
}

static char text[RECORD_MAX];
static size_t text_length;

const char *record_text(size_t *length)
{
    *length = text_length;
    return text;
}

static int put(const struct record *record)
{
    struct json json = {.text = text, .size = sizeof text};
    encode(&json, record);
    text_length = json.length;
    return pwrite(record_fd, text, json.length, 0) == (ssize_t)json.length &&
                   ftruncate(record_fd, (off_t)json.length) == 0
               ? 0
               : -1;
}

int record_write(const struct record *record, bool sync)
{
    /* A text may be longer than what was reserved; on a full disk the rest matters more. */
    struct record brief = *record;
    brief.error = "";
    if ((put(record) != 0 && put(&brief) != 0) || (sync && fdatasync(record_fd) != 0) ||
        renameat(folder_fd, "exit.tmp", folder_fd, "exit") != 0)
        return -1;
    close(record_fd);
    return sync ? sys_sync_folder(folder_fd) : 0;
}

int record_put_as(const char *name, const char *what, size_t length)
{
    if (pwrite(record_fd, what, length, 0) != (ssize_t)length || ftruncate(record_fd, (off_t)length) != 0 ||
        fsync(record_fd) != 0 || renameat(folder_fd, "exit.tmp", folder_fd, name) != 0)
        return -1;
    close(record_fd);
    if (sys_sync_folder(folder_fd) != 0)
        complain("fsync of the folder: %m"); /* it is there */
    return 0;
}
