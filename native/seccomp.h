/* A compiled filter, read from a descriptor and installed on the calling process. */
#ifndef DMS_SECCOMP_H
#define DMS_SECCOMP_H

/* Closes the descriptor. 0, or -1 with errno. */
int seccomp_install(int fd);

#endif
