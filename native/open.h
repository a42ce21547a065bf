/* The OPEN payload: NUL-terminated strings, first the control group to make the session's own in (empty: none), then
 * the command. */
#ifndef DMS_OPEN_H
#define DMS_OPEN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { OPEN_ARGS = 64, OPEN_FDS = 16, OPEN_MOST = 4000 };

struct open_request {
    const char *group;
    char *argv[OPEN_ARGS + 1];
    size_t argc;
};

/* In place: the strings point into the payload. */
bool open_parse(uint8_t *payload, size_t length, struct open_request *out);

#endif
