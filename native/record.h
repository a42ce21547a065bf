/* The exit record: `exit` in the folder, JSON, renamed into place from a file whose space was reserved at birth. */
#ifndef DMS_RECORD_H
#define DMS_RECORD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "usage.h"

enum stop_cause { CAUSE_NONE, CAUSE_DEADLINE, CAUSE_STOP };

struct record {
    int code, signal; /* -1: unknown, none */
    enum stop_cause stopped_by;
    bool killed;
    const char *lost;      /* NULL: not lost */
    uint64_t started_at;   /* 0: never ran */
    uint64_t finished_at;
    const char *error;
    int error_number;
    struct usage usage;
};

int record_reserve(int folder, uint64_t bytes);
#define RECORD_MAX 16384 /* two texts of 1 KiB, each byte at worst six characters */

const char *record_text(size_t *length); /* what was written last; empty before */
int record_write(const struct record *record, bool sync);
int record_put_as(const char *name, const char *text, size_t length); /* another one, in the space of that which is not written */
void record_discard(void); /* nothing has run: leaves no trace */

#endif
