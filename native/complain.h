/* The shim's own complaints, in `shim.log` of the execution's folder; the file exists only if there was one. */
#ifndef DMS_COMPLAIN_H
#define DMS_COMPLAIN_H

void complain_in(int folder);

/* Appends a line; keeps `errno`. */
__attribute__((format(printf, 1, 2))) void complain(const char *format, ...);

#endif
