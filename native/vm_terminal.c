#include "vm_terminal.h"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

#include "frame.h"
#include "terminal.h"

/* The guest's own terminal echoes, breaks lines and makes signals of keys: here nothing may do so once more. */
static int make_raw(int terminal)
{
    struct termios raw;
    if (tcgetattr(terminal, &raw) != 0)
        return -1;
    cfmakeraw(&raw);
    return tcsetattr(terminal, TCSANOW, &raw);
}

int vm_terminal_take(int report, const char *size)
{
    uint8_t frame[FRAME_HEADER];
    int terminal, master = terminal_open(size, &terminal);
    if (master < 0)
        return -1;
    frame_header(frame, FRAME_INIT_TERMINAL, 0);
    if (make_raw(terminal) != 0 || fcntl(terminal, F_SETFL, O_RDWR | O_NONBLOCK) != 0 ||
        terminal_hand_over(report, frame, sizeof frame, master) != 0)
        return -1;
    close(master);
    setsid(); /* as its controlling terminal, or nobody would tell us of its size */
    ioctl(terminal, TIOCSCTTY, 0);
    if (dup2(terminal, 0) < 0 || dup2(terminal, 1) < 0)
        return -1;
    close(terminal);
    return 0;
}

int vm_terminal_size(uint8_t payload[8])
{
    struct winsize window;
    if (ioctl(0, TIOCGWINSZ, &window) != 0)
        return -1;
    put_u32(payload, window.ws_col);
    put_u32(payload + 4, window.ws_row);
    return 0;
}
