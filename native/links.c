#include "links.h"

#include <stdlib.h>
#include <string.h>

#define BUCKETS 65536u
#define BYTES_MAX (32u * 1024 * 1024)

struct met {
    struct met *next;
    dev_t device;
    ino_t inode;
    char path[];
};

const char *links_met(dev_t device, ino_t inode, const char *path)
{
    static struct met **buckets;
    static size_t used;
    if (buckets == NULL && (buckets = calloc(BUCKETS, sizeof *buckets)) == NULL)
        return NULL;
    uint64_t mixed = ((uint64_t)inode ^ (uint64_t)device << 40) * 0x9e3779b97f4a7c15ull;
    struct met **bucket = &buckets[mixed >> 48];
    for (struct met *it = *bucket; it != NULL; it = it->next)
        if (it->inode == inode && it->device == device)
            return it->path;
    size_t size = sizeof(struct met) + strlen(path) + 1;
    if (used + size > BYTES_MAX)
        return NULL;
    struct met *made = malloc(size);
    if (made == NULL)
        return NULL;
    used += size;
    *made = (struct met){.next = *bucket, .device = device, .inode = inode};
    strcpy(made->path, path);
    *bucket = made;
    return NULL;
}
