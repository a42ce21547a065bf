/* What a helper for files does: the modes `look`, `pack` and `unpack` of dms-shim (docs/protocol.md, section 8), and `read`. */
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "files.h"
#include "frame.h"
#include "guest.h"
#include "modes.h"
#include "sys.h"

#define READ_MOST (1u << 20) /* of one file */
#define NO_FILE UINT32_MAX

/* A small file's bytes behind their number, NO_FILE where there is no such file. */
static void put_file(const char *path)
{
    static uint8_t bytes[4 + READ_MOST];
    struct stat status;
    size_t length = 0;
    ssize_t got = -1;
    int fd = open(path, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
    if (fd >= 0 && fstat(fd, &status) == 0 && S_ISREG(status.st_mode))
        while (length < READ_MOST && (got = read(fd, bytes + 4 + length, READ_MOST - length)) > 0)
            length += (size_t)got;
    put_u32(bytes, got < 0 ? NO_FILE : (uint32_t)length);
    if (sys_write_all(1, bytes, got < 0 ? 4 : 4 + length) != 0)
        files_die(path);
    if (fd >= 0)
        close(fd);
}

static int mode_read(char **paths, bool in_job)
{
    files_begin(in_job);
    for (; *paths != NULL; paths++)
        put_file(*paths);
    return 0;
}

int guest_mode(int argc, char **argv, bool in_job)
{
    if (argc > 1 && strcmp(argv[0], "look") == 0)
        return mode_look(argv + 1);
    if (argc > 1 && strcmp(argv[0], "pack") == 0)
        return mode_pack(argv + 1);
    if (argc > 1 && strcmp(argv[0], "unpack") == 0)
        return mode_unpack(argc, argv);
    if (argc > 1 && strcmp(argv[0], "read") == 0)
        return mode_read(argv + 1, in_job);
    return 2;
}
