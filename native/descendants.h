/* The end of all that came of us, where there is no control group of our own to kill. */
#ifndef DMS_DESCENDANTS_H
#define DMS_DESCENDANTS_H

#include <stdbool.h>

/* Kills every descendant of this process, which must be their subreaper, and reaps those that are its children. Returns
 * once none is left, or after some seconds in which one would not die. */
void descendants_kill(void);

/* As pid 1: kills all others of its namespace, and reaps its own. False where one of these would not die at once. */
bool descendants_ended(void);

#endif
