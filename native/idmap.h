/* Ids of the host for those of the job: a range of its own for each execution (user_namespaces(7)). */
#ifndef DMS_IDMAP_H
#define DMS_IDMAP_H

#include <stdint.h>

struct idmap {
    uint32_t first, count; /* ids 0 to count - 1 of the job are those from `first` on of the host; count 0: no mapping */
};

/* A descriptor of a user namespace with this mapping and no process in it, for mount_setattr(2). -1 with errno. */
int idmap_namespace(const struct idmap *idmap);

/* Gives the folder `fd` and what lies directly in it to the job's ids; doing it twice changes nothing. -1 with errno. */
int idmap_take(const struct idmap *idmap, int fd);

#endif
