#include "log_past.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "frame.h"
#include "log.h"

void log_name_of(uint64_t number, char name[24])
{
    snprintf(name, 24, "%010llu", (unsigned long long)number);
}

/* An entry that is not whole counts as far as a reader takes it. */
static int count_entries(int fd, uint64_t size, struct log_past *past)
{
    uint8_t header[SEGMENT_HEADER], gap[GAP_LENGTH];
    uint64_t at = SEGMENT_HEADER;
    if (pread(fd, header, sizeof header, 0) != (ssize_t)sizeof header)
        return -1;
    past->seen[0] = get_u64(header + 16);
    past->seen[1] = get_u64(header + 24);
    while (pread(fd, header, ENTRY_HEADER, (off_t)at) == ENTRY_HEADER) {
        uint64_t length = get_u32(header);
        at += ENTRY_HEADER;
        if (length > size - at)
            length = size - at;
        if (header[4] == LOG_STDOUT || header[4] == LOG_STDERR)
            past->seen[header[4] - 1] += length;
        else if (header[4] == LOG_GAP && pread(fd, gap, sizeof gap, (off_t)at) == (ssize_t)sizeof gap && (gap[0] == 1 || gap[0] == 2))
            past->seen[gap[0] - 1] += get_u64(gap + 8);
        at += length;
    }
    return 0;
}

static int count_last(int folder, struct log_past *past)
{
    char name[24];
    struct stat status;
    log_name_of(past->last, name);
    int fd = openat(folder, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0)
        return -1;
    int result = fstat(fd, &status) == 0 ? count_entries(fd, (uint64_t)status.st_size, past) : -1, error = errno;
    close(fd);
    errno = error;
    return result;
}

int log_look_back(int folder, struct log_past *past)
{
    struct dirent *entry;
    struct stat status;
    int copy = openat(folder, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *list = copy < 0 ? NULL : fdopendir(copy);
    if (list == NULL)
        return -1;
    memset(past, 0, sizeof *past);
    while ((entry = readdir(list)) != NULL) {
        char *end;
        uint64_t number = strtoull(entry->d_name, &end, 10);
        if (*end != 0 || strlen(entry->d_name) != 10 || number == 0 || fstatat(folder, entry->d_name, &status, AT_SYMLINK_NOFOLLOW) != 0)
            continue;
        past->total += (uint64_t)status.st_size;
        past->first = past->first == 0 || number < past->first ? number : past->first;
        past->last = number > past->last ? number : past->last;
    }
    closedir(list);
    if (past->last == 0) {
        past->first = 1;
        return 0;
    }
    return count_last(folder, past);
}
