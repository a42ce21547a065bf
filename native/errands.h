/* What `dms-init` does where it is no init but executed beside one, or instead of one: docs/protocol.md, section 3. */
#ifndef DMS_ERRANDS_H
#define DMS_ERRANDS_H

/* -k SIGNUM [GRACE], -g ROOM, -z SECONDS PATH: its exit code; -1 where the arguments name none of these. */
int errand(int argc, char **argv);

#endif
