/* Which files of several names were met already. */
#ifndef DMS_LINKS_H
#define DMS_LINKS_H

#include <stdint.h>
#include <sys/types.h>

/* The name under which that file was met first; NULL: now, and it is remembered by `path` while there is room. A file
 * for which there was none comes again as one of its own. */
const char *links_met(dev_t device, ino_t inode, const char *path);

#endif
