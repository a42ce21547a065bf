/* The modes of `dms-shim`. */
#ifndef DMS_MODES_H
#define DMS_MODES_H

int mode_run(char **maps); /* of userns.h, or NULL */
int mode_tether(char **argv);
int mode_keeper(char **argv);
int mode_look(char **argv);
int mode_pack(char **argv);
int mode_unpack(int argc, char **argv);

/* The second half of a double fork in a session of its own: returns in the child only, or -1. */
int detach(void);

#endif
