/* What an earlier writer has left of a log, for the one that goes on with it (docs/protocol.md, section 5). */
#ifndef DMS_LOG_PAST_H
#define DMS_LOG_PAST_H

#include <stdint.h>

enum { SEGMENT_HEADER = 64, ENTRY_HEADER = 16, GAP_LENGTH = 16 };

struct log_past {
    uint64_t first, last, total; /* numbers of segments, bytes of all */
    uint64_t seen[2];            /* bytes of stdout and stderr, lost ones included */
};

int log_look_back(int folder, struct log_past *past); /* 0, or -1 with errno */
void log_name_of(uint64_t number, char name[24]);

#endif
