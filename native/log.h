/* The writer of the log (docs/protocol.md, section 5): segments, cap, gaps. */
#ifndef DMS_LOG_H
#define DMS_LOG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum log_kind { LOG_STDOUT = 1, LOG_STDERR = 2, LOG_GAP = 3, LOG_END = 4 };

/* Makes the folder `log` and the first segment, or goes on behind what is there. 0, or -1 with errno. */
int log_open(int folder, uint64_t cap, uint64_t segment, bool sync, bool goes_on);

/* The most that one log_write() should be given, so that no segment passes its size. */
size_t log_chunk(void);

/* Never blocks for want of space: what cannot be written is counted and becomes a gap. */
void log_write(enum log_kind stream, const uint8_t *data, size_t length);

/* Writes pending gaps and the end mark. */
void log_end(void);

/* Writes pending gaps: another writer goes on. */
void log_suspend(void);

#endif
