#include "complain.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <unistd.h>

#define MOST_LINES 1000 /* whatever goes wrong again and again must not fill the disk */

static int folder_fd = -1, log_fd = -1, lines;

void complain_in(int folder)
{
    folder_fd = folder;
}

void complain(const char *format, ...)
{
    int error = errno;
    if (log_fd < 0 && folder_fd >= 0)
        log_fd = openat(folder_fd, "shim.log", O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (log_fd >= 0 && lines++ < MOST_LINES) {
        char line[512];
        va_list arguments;
        va_start(arguments, format);
        errno = error; /* for %m */
        int length = vsnprintf(line, sizeof line - 1, format, arguments);
        va_end(arguments);
        if (length > (int)sizeof line - 2)
            length = (int)sizeof line - 2;
        if (length >= 0) {
            line[length++] = '\n';
            ssize_t ignored = write(log_fd, line, (size_t)length); /* nobody is left to complain to */
            (void)ignored;
        }
    }
    errno = error;
}
