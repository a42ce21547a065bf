#include "modes.h"

#include <unistd.h>

int detach(void)
{
    /* Our caller's spawn was the first fork; after the second we lead no session and so can get no terminal. */
    setsid();
    pid_t pid = fork();
    if (pid > 0)
        _exit(0);
    return pid < 0 ? -1 : 0;
}
