#include "open.h"

#include <string.h>

bool open_parse(uint8_t *payload, size_t length, struct open_request *out)
{
    if (length == 0 || payload[length - 1] != 0)
        return false;
    char *at = (char *)payload, *end = at + length;
    out->group = at;
    out->argc = 0;
    for (at += strlen(at) + 1; at < end; at += strlen(at) + 1) {
        if (out->argc >= OPEN_ARGS)
            return false;
        out->argv[out->argc++] = at;
    }
    out->argv[out->argc] = NULL;
    return out->argc > 0 && out->argv[0][0] == '/' && (out->group[0] == 0 || out->group[0] == '/');
}
