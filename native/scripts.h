/* The provision scripts of a job, as its init has them: files in a folder, run in the order in which they came. */
#ifndef DMS_SCRIPTS_H
#define DMS_SCRIPTS_H

/* Writes what descriptor `fd` holds (docs/protocol.md, section 3) into `folder`, and closes it. NULL, or what could not
 * be done, with errno. */
const char *scripts_write(int fd, const char *folder);

/* The path of the next one, NULL once all have been given; `scripts_name` is the name of that one. */
const char *scripts_next(void);
const char *scripts_name(void);

/* Takes the files away. */
void scripts_forget(void);

/* Executes the one at hand by its `#!`, or by /bin/sh where it has none; returns the errno. Its stdin is empty: the
 * job's own is the job's. */
int scripts_execute(void);

#endif
