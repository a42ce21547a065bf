/* A terminal of the job's own `/dev/pts`. */
#ifndef DMS_TERMINAL_H
#define DMS_TERMINAL_H

#include <stdbool.h>
#include <stddef.h>

/* `size` is "COLUMNSxROWS". The master, and the terminal itself in `out`; -1 with errno. */
int terminal_open(const char *size, int *out);

/* Sends bytes with a descriptor. */
int terminal_hand_over(int socket, const void *bytes, size_t length, int master);

/* A new session with `fd` as its controlling terminal, stdin, stdout and stderr. */
void terminal_take(int fd);

/* A session of its own, so that a signal meant for it reaches nobody else; with a terminal it becomes the foreground
 * group of that. */
void terminal_separate(int terminal, bool in_script);

#endif
