/* A network namespace, made and pinned by a child: the caller stays where it is. */
#ifndef DMS_NETSPACE_H
#define DMS_NETSPACE_H

/* `pin`: a path that becomes the namespace's file (a bind mount); `sysfs`: NULL, or the folder on which a sysfs of it is
 * mounted, for a job whose user namespace does not own it and so may not mount one. Loopback is up, what a job needs
 * no privilege for in Docker it needs none for here, and link-local addresses are out of reach. -1 with `errno`. */
int netspace_make(const char *pin, const char *sysfs);

#endif
