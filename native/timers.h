/* All deadlines behind one timerfd, which is unarmed while there is none: a sleeping job costs no wake-up. */
#ifndef DMS_TIMERS_H
#define DMS_TIMERS_H

#include <stdbool.h>
#include <stdint.h>

enum timer { TIMER_TIMEOUT, TIMER_GRACE, TIMER_KILL, TIMER_RUNTIME, TIMER_DRAIN, TIMER_SESSIONS, TIMERS };

int timers_open(void); /* the descriptor to wait for, or -1 */
void timer_set(enum timer timer, uint64_t ms);
void timer_sooner(enum timer timer, uint64_t ms); /* only if it is unset or later than that */
void timer_clear(enum timer timer);

/* After the descriptor became readable: calls back for each deadline that has passed. */
void timers_run(void (*due)(enum timer timer));

#endif
