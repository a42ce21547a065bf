/* The user namespace of a shim whose caller is not root: root inside is the caller outside, further ids are the
 * caller's own ranges of /etc/subuid and /etc/subgid, given by the set-user-id programs of the package uidmap. */
#ifndef DMS_USERNS_H
#define DMS_USERNS_H

#include <stddef.h>

/* `newuidmap` NULL: none is wanted. The maps are words, three for each range: inside, outside, count. */
struct userns {
    const char *newuidmap, *newgidmap, *uid_map, *gid_map;
};

/* Takes this process, of one thread, into a new user namespace, and into new ones of `others` (CLONE_NEWNS or 0) that
 * belong to it. 0, or -1 with `errno` and what was wrong in `what`. */
int userns_enter(const struct userns *userns, int others, char *what, size_t size);

/* `dms-shim userns NEWUIDMAP NEWGIDMAP UID_MAP GID_MAP ARGV...` */
int mode_userns(char **argv);

#endif
