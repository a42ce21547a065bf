/* execvp(3) without its one surprise: a file with no `#!` is not handed to sh. */
#ifndef DMS_SEARCH_H
#define DMS_SEARCH_H

/* Returns only if nothing could be executed: the errno. */
int search_and_execute(char **argv);

#endif
