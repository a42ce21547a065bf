#include "output.h"

#include <unistd.h>

#include "console.h"
#include "descendants.h"

static bool counts;

int output_begin(bool in_lines, bool counted, bool has_terminal)
{
    counts = counted && !in_lines;
    if (in_lines)
        return lines_begin(has_terminal);
    return counts && !has_terminal ? passing_begin() : 0;
}

void output_take_over(void)
{
    if (lines_on())
        lines_take_over();
    if (passing_on())
        passing_take_over();
}

void output_wait_for(struct pollfd polled[OUTPUT_POLLED])
{
    lines_wait_for(polled);
    passing_wait_for(polled + LINES_POLLED);
}

void output_move(const struct pollfd polled[OUTPUT_POLLED])
{
    lines_move(polled);
    passing_move(polled + LINES_POLLED);
}

unsigned output_finish(unsigned char *payload)
{
    console_finish();
    if (lines_on()) {
        lines_drain();
        return lines_counted(payload); /* of what may still write nothing is passed on */
    }
    /* Of what may still write nobody knows how much. */
    if (!counts || getpid() != 1 || !descendants_ended())
        return 0;
    return passing_on() ? passing_counted(payload) : console_counted(payload);
}

void output_flush(void)
{
    lines_flush();
    passing_drain();
}
