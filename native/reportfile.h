/* The report of an init that got no socket: a file that its engine bound into the container. */
#ifndef DMS_REPORTFILE_H
#define DMS_REPORTFILE_H

/* The file, to be appended to, or -1. */
int reportfile_open(const char *path);

/* What the job's control group counted, as it shows inside: payload of INIT_USAGE; its length. */
unsigned reportfile_usage(unsigned char *payload);

#endif
