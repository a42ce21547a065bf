#include "handed.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "frame.h"
#include "sys.h"

enum { LONGEST_NAME = 16, COPY = 65536 };

static int read_exactly(int fd, void *data, size_t length)
{
    for (char *to = data; length > 0;) {
        ssize_t got = read(fd, to, length);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return -1;
        to += got;
        length -= (size_t)got;
    }
    return 0;
}

/* The same go may come twice, since its first answer was lost: each writes beside, so that what stands is whole. */
static int receive_one(int room, const char *name, uint32_t length)
{
    static char buffer[COPY];
    char own[LONGEST_NAME];
    snprintf(own, sizeof own, ".%d", (int)getpid());
    int file = openat(room, own, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600);
    int result = file < 0 ? -1 : 0;
    while (result == 0 && length > 0) {
        size_t part = length < sizeof buffer ? length : sizeof buffer;
        result = read_exactly(0, buffer, part);
        if (result == 0)
            result = sys_write_all(file, buffer, part);
        length -= (uint32_t)part;
    }
    if (file >= 0)
        close(file);
    if (result == 0)
        result = renameat(room, own, room, name);
    if (result != 0 && file >= 0)
        unlinkat(room, own, 0);
    return result;
}

int handed_receive(const char *path)
{
    int room = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    uint8_t lengths[8];
    char name[LONGEST_NAME + 1];
    while (room >= 0 && read_exactly(0, lengths, sizeof lengths) == 0) {
        uint32_t size = get_u32(lengths);
        if (size == 0)
            return kill(1, SIGCONT) == 0 ? 0 : 1;
        if (size > LONGEST_NAME || read_exactly(0, name, size) != 0)
            break;
        name[size] = 0;
        if (strchr(name, '/') != NULL || *name == '.' || receive_one(room, name, get_u32(lengths + 4)) != 0)
            break;
    }
    dprintf(2, "dms-init: what the job is handed did not arrive: %s\n", strerror(errno));
    return 1;
}

static int take_one(int room, const char *name)
{
    int file = openat(room, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    if (file >= 0)
        unlinkat(room, name, 0);
    return file;
}

/* NAME=VALUE, each with a NUL behind it. */
static int set_environment(int file)
{
    struct stat found;
    if (fstat(file, &found) != 0)
        return -1;
    size_t size = (size_t)found.st_size;
    char *text = malloc(size + 1);
    if (text == NULL || read_exactly(file, text, size) != 0)
        return -1;
    text[size] = 0;
    for (char *at = text; at < text + size; at += strlen(at) + 1)
        if (putenv(at) != 0)
            return -1;
    return 0;
}

const char *handed_take(const char *path, int *scripts, const char **folder)
{
    static char run[512];
    int room = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (room < 0)
        return "cannot open the folder of what the job is handed";
    int secrets = take_one(room, "environment");
    if (secrets >= 0 && set_environment(secrets) != 0)
        return "cannot read the secrets";
    if (secrets >= 0)
        close(secrets);
    int input = take_one(room, "input");
    if (input >= 0 && dup2(input, 0) < 0)
        return "cannot open the input";
    if (input >= 0)
        close(input);
    *scripts = take_one(room, "scripts");
    snprintf(run, sizeof run, "%s/run", path);
    *folder = run;
    close(room);
    return NULL;
}
