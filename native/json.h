/* Just enough of JSON to write the exit record into a fixed buffer. */
#ifndef DMS_JSON_H
#define DMS_JSON_H

#include <stddef.h>

struct json {
    char *text;
    size_t size, length;
};

__attribute__((format(printf, 2, 3))) void json_add(struct json *json, const char *format, ...);

/* A quoted string. The text may hold any bytes: what is not UTF-8 becomes U+FFFD, so that the record always decodes. */
void json_string(struct json *json, const char *text);

#endif
