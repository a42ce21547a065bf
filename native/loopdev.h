/* An image file on a free loop device that frees itself with its last user. */
#ifndef DMS_LOOPDEV_H
#define DMS_LOOPDEV_H

#include <stddef.h>

/* The open device and its path, or -1 with errno. Close it once it is mounted. */
int loopdev_attach(int image, char *path, size_t size);

#endif
