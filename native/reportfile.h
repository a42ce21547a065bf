/* Where an init reports to: a socket that it was given, or a file that its engine bound into the container. */
#ifndef DMS_REPORTFILE_H
#define DMS_REPORTFILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The file, to be appended to, or -1. */
int reportfile_open(const char *path);

/* What goes before an end goes with it, in one write: who waits for the report is woken once. */
void reportfile_append(int report, const uint8_t *frame, size_t length);

/* Whether somebody has written there before us that the job is not to run: INIT_HALT is its first frame. */
bool reportfile_halted(int report);

/* `fd`, if it is a socket, else -1. */
int reportfile_socket(int fd);

/* What the job's control group counted, as it shows inside: payload of INIT_USAGE; its length. */
unsigned reportfile_usage(unsigned char *payload);

#endif
