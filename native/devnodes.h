/* Device nodes for the job, in a folder `dev` of the room that is mounted without nodev. */
#ifndef DMS_DEVNODES_H
#define DMS_DEVNODES_H

#include <stdint.h>

#include "idmap.h"

struct devnode {
    uint32_t mode, uid, gid, major, minor; /* `mode` with S_IFCHR or S_IFBLK; ids as the job sees them */
};

/* Makes `name`; `tree` (or -1) is a detached copy of the host's own node, bound where this process may make none, as in
 * a user namespace (mknod(2)). 0, or -1 with errno. */
int devnode_make(int room, const char *name, const struct devnode *node, int tree, const struct idmap *idmap);

#endif
