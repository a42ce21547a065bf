/* The arguments of `dms-init`: docs/protocol.md, section 3. */
#ifndef DMS_OPTIONS_H
#define DMS_OPTIONS_H

#include <stdbool.h>

struct options {
    const char *report;           /* -r, -l */
    bool lines, counts;           /* -l, -o */
    char *socket;                 /* -c */
    bool waits, stays;            /* -w, -e; both with -c */
    int group, filter;            /* -j, -s: descriptors, -1 where there is none */
    const char *size;             /* -t */
    const char *scripts, *folder; /* -p */
    const char *input, *attached; /* -i, -a */
    const char *room, *held;      /* -h, -u */
    const char *limit;            /* -d */
    char **argv;
};

bool options_parse(int argc, char **argv, struct options *out);

#endif
