/* The control socket and who is connected to it; slot 0 is the caller's own connection. */
#ifndef DMS_CLIENTS_H
#define DMS_CLIENTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "frame.h"

enum { CLIENT_SLOTS = 65, CLIENT_CALLER = 0 };

/* What clients ask for; answers go back by client_send(). */
typedef void client_request(int client, const struct frame *frame);
/* A connection ended. */
typedef void client_gone(int client);

int clients_open(int folder, int caller, int epoll, client_request *request, client_gone *gone);
bool clients_accept(void); /* one; false: nobody waits */
void client_ready(int client); /* reads and serves all that is there */

/* The descriptors that came with a client's frame, from `fds` on; they are closed once it is served. */
int client_descriptors(int client, const int **fds);

void client_send(int client, uint8_t type, const uint8_t *payload, size_t length);
void clients_broadcast(uint8_t type, const uint8_t *payload, size_t length);

/* An error frame: errno and text. */
size_t error_payload(uint8_t *at, int error, const char *text);
void client_refuse(int client, int error, const char *text);

/* Unlinks the socket; clients that connected but were not accepted yet get the last broadcasts, too. */
void clients_stop_listening(int folder);
void clients_close(void);

#endif
