/* What the job used, read from its cgroup's files at the end. */
#ifndef DMS_USAGE_H
#define DMS_USAGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "config.h"

enum usage_key { USAGE_CPU, USAGE_MEMORY, USAGE_OOM, USAGE_READ, USAGE_WRITE, USAGE_KEYS };

struct usage {
    bool known[USAGE_KEYS];
    uint64_t value[USAGE_KEYS];
};

/* The first source of a key that can be read counts: a host may lack one of two files. */
void usage_read(const struct usage_source *sources, size_t count, struct usage *usage);

/* The sum of all decimal numbers that follow `field` and a space or `=` at a word's start; the file's first number for
 * an empty field. False if there is none. */
bool usage_number(const char *text, const char *field, uint64_t *out);

#endif
