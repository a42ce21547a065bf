/* What whoever lets a waiting job go hands over with that: files in a folder of the job's. docs/protocol.md, section 3. */
#ifndef DMS_HANDED_H
#define DMS_HANDED_H

/* `dms-init -g ROOM`: writes what comes on stdin into ROOM, and lets the job go. The exit code of the process. */
int handed_receive(const char *room);

/* In the init, once it was let go: the job's secrets into the environment, its input as stdin, its provision scripts as
 * `*scripts` with the folder for them as `*folder`, as far as there are any; the files are taken away. NULL, or what
 * could not be done, with errno. */
const char *handed_take(const char *room, int *scripts, const char **folder);

#endif
