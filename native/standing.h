/* `dms-init -z SECONDS PATH`: a container that stands beside a job's, so that files can be brought to it before, and
 * fetched from it afterwards, however that ended. docs/protocol.md, section 3. */
#ifndef DMS_STANDING_H
#define DMS_STANDING_H

/* The job's side: holds PATH from now on, for as long as its container lives. 0, or -1 with errno. */
int standing_hold(const char *path);

/* Stands until the job's container has ended and SECONDS have passed, or until it is sent TERM. Its exit code. */
int standing(const char *seconds, const char *path);

#endif
