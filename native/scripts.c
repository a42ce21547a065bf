#include "scripts.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "frame.h"
#include "sys.h"

#define NAME_LENGTH 128u
#define COPY 65536u

struct script {
    struct script *next;
    char name[NAME_LENGTH + 1];
};

static struct script *first, *present, **end = &first;
static const char *place;
static bool begun;
static char path[512];

static int read_exactly(int fd, void *data, size_t length)
{
    for (uint8_t *to = data; length > 0;) {
        ssize_t got = read(fd, to, length);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0) {
            errno = got == 0 ? EPROTO : errno;
            return -1;
        }
        to += got;
        length -= (size_t)got;
    }
    return 0;
}

static int write_one(int from, int folder, const char *name, uint32_t length)
{
    static uint8_t buffer[COPY];
    int to = openat(folder, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0700);
    int result = to < 0 ? -1 : fchmod(to, 0700);
    while (result == 0 && length > 0) {
        size_t part = length < sizeof buffer ? length : sizeof buffer;
        result = read_exactly(from, buffer, part);
        if (result == 0)
            result = sys_write_all(to, buffer, part);
        length -= (uint32_t)part;
    }
    int error = errno;
    if (to >= 0)
        close(to);
    errno = error;
    return result;
}

const char *scripts_write(int fd, const char *folder)
{
    uint8_t lengths[8];
    place = folder;
    mkdir(folder, 0700); /* it may be there, else it is made in a folder that others may write to */
    int to = open(folder, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (to < 0)
        return "cannot open the folder of the provision scripts";
    while (read_exactly(fd, lengths, sizeof lengths) == 0) {
        uint32_t name_length = get_u32(lengths);
        struct script *script = calloc(1, sizeof *script);
        if (script == NULL || name_length == 0 || name_length > NAME_LENGTH)
            return "a provision script's name is too long";
        if (read_exactly(fd, script->name, name_length) != 0)
            return "the provision scripts did not arrive";
        if (write_one(fd, to, script->name, get_u32(lengths + 4)) != 0)
            return "cannot write the provision scripts";
        *end = script;
        end = &script->next;
    }
    close(fd);
    close(to);
    return NULL;
}

const char *scripts_next(void)
{
    present = begun ? present->next : first;
    begun = true;
    if (present == NULL)
        return NULL;
    snprintf(path, sizeof path, "%s/%s", place, present->name);
    return path;
}

const char *scripts_name(void)
{
    return present == NULL ? "" : present->name;
}

void scripts_forget(void)
{
    for (struct script *it = first; it != NULL; it = it->next) {
        snprintf(path, sizeof path, "%s/%s", place, it->name);
        unlink(path);
    }
}

int scripts_execute(void)
{
    extern char **environ;
    char *direct[] = {path, NULL};
    char *by_shell[] = {"/bin/sh", path, NULL};
    int nothing = open("/dev/null", O_RDONLY | O_CLOEXEC);
    if (nothing < 0 || dup2(nothing, 0) < 0)
        return errno;
    execve(path, direct, environ);
    if (errno == ENOEXEC)
        execve(by_shell[0], by_shell, environ);
    return errno;
}
