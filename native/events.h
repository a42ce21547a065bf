/* What epoll's `data` says woke us. */
#ifndef DMS_EVENTS_H
#define DMS_EVENTS_H

enum event {
    EVENT_SIGNAL,
    EVENT_TIMER,
    EVENT_LISTENER,
    EVENT_REPORT,
    EVENT_STDOUT,
    EVENT_STDERR,
    EVENT_TERMINAL,
    EVENT_INPUT,
    EVENT_CLIENT, /* and up: the client's slot */
};

#endif
