/* Of `unpack -t`: what comes has a place of its own until it is whole. docs/protocol.md, section 8. */
#ifndef DMS_ATTEMPT_H
#define DMS_ATTEMPT_H

/* The folder NUMBER in `folder`, opened with O_PATH, once what attempts of lower numbers left there is gone; or -1. */
int attempt_begin(int folder, unsigned number);

/* `name` in `place`, which attempt_begin() has given, to its place in `folder`, whatever is there. 0, or -1. */
int attempt_end(int folder, int place, unsigned number, const char *name);

#endif
