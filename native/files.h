/* What `dms-shim look`, `pack` and `unpack` share: whose files, and what is told to the caller. */
#ifndef DMS_FILES_H
#define DMS_FILES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* Dies with the caller from now on. `in_job`: becomes the job's root user with the job's view of files and nothing else
 * of it; descriptor 3 is the folder in /proc of its init. */
void files_begin(bool in_job);

/* Three strings that end in NUL on descriptor 2: kind, number, text (its first 4,096 bytes). */
void files_tell(const char *kind, uint64_t number, const char *text);

/* Tells `error` with errno and what it is about; ends the program. */
_Noreturn void files_die(const char *what);
_Noreturn void files_die_of(int error, const char *what);

/* Bytes of the first part of a path. Not strcspn: in some libc it looks at the whole of a long text first. */
size_t files_part(const char *path);

/* memcmp() == 0, by words: a deep tree makes for very long names. */
bool files_same(const char *one, const char *other, size_t length);

/* A folder beneath another, never through a symbolic link: O_PATH, or -1. `path` may be longer than PATH_MAX. */
int files_folder(int base, const char *path);

/* A folder with all in it, through no symbolic link. 0, or -1 with errno. */
int files_clear(int folder, const char *name);

#endif
