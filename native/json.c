#include "json.h"

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>

void json_add(struct json *json, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(json->text + json->length, json->size - json->length, format, arguments);
    va_end(arguments);
    if (length > 0)
        json->length += (size_t)length < json->size - json->length ? (size_t)length : json->size - json->length - 1;
}

/* Bytes of the UTF-8 character at `at` (RFC 3629: shortest form, no surrogates), 0 if there is none. */
static int character(const uint8_t *at)
{
    uint8_t low = 0x80, high = 0xbf;
    int more;
    if (at[0] < 0x80)
        return 1;
    if (at[0] >= 0xc2 && at[0] <= 0xdf)
        more = 1;
    else if (at[0] >= 0xe0 && at[0] <= 0xef)
        more = 2;
    else if (at[0] >= 0xf0 && at[0] <= 0xf4)
        more = 3;
    else
        return 0;
    if (at[0] == 0xe0)
        low = 0xa0;
    else if (at[0] == 0xed)
        high = 0x9f;
    else if (at[0] == 0xf0)
        low = 0x90;
    else if (at[0] == 0xf4)
        high = 0x8f;
    for (int i = 1; i <= more; i++, low = 0x80, high = 0xbf)
        if (at[i] < low || at[i] > high)
            return 0;
    return more + 1;
}

void json_string(struct json *json, const char *text)
{
    json_add(json, "\"");
    for (const uint8_t *at = (const uint8_t *)text; *at != 0;) {
        int bytes = character(at);
        if (bytes == 0)
            json_add(json, "\\ufffd");
        else if (*at == '"' || *at == '\\')
            json_add(json, "\\%c", *at);
        else if (*at < 0x20 || *at == 0x7f)
            json_add(json, "\\u%04x", *at);
        else
            json_add(json, "%.*s", bytes, (const char *)at);
        at += bytes == 0 ? 1 : bytes;
    }
    json_add(json, "\"");
}
