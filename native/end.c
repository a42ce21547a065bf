/* The end: usage, the streams' rest, the log's end mark, the record, ENDED, the folders. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "complain.h"
#include "job.h"
#include "log.h"
#include "network.h"
#include "session.h"
#include "shim.h"
#include "streams.h"
#include "suspend.h"
#include "sys.h"

#define RMDIR_TRIES 100 /* of 5 ms: a cgroup stays busy for a moment after its last process */

static bool settled;
static struct usage usage;

void end_settle(void)
{
    if (settled)
        return;
    settled = true;
    shim.phase = PHASE_ENDING;
    timer_clear(TIMER_TIMEOUT);
    timer_clear(TIMER_GRACE);
    timer_clear(TIMER_KILL);
    timer_clear(TIMER_RUNTIME);
    timer_clear(TIMER_SESSIONS);
    pid_t left = job_pidfile(shim.folder, shim.config.pidfile);
    if (job_is_child(left))
        kill(left, SIGKILL);
    network_down();
    job_kill_children();
    usage = shim.reported; /* what it leaves out is read */
    usage_read(shim.config.usage, shim.config.usage_count, &usage);
    timer_set(TIMER_DRAIN, shim.config.drain_ms);
    if (streams_closed())
        end_streams();
}

static void how_it_ended(struct record *record)
{
    static char lost[96];
    int status = shim.job_reported || (shim.init_gone && !shim.config.report) ? shim.job_status : -1;
    if (!shim.config.report)
        status = shim.init_status;
    if (shim.failed || shim.unreached)
        return;
    if (status >= 0 && WIFEXITED(status)) {
        record->code = WEXITSTATUS(status);
    } else if (status >= 0 && WIFSIGNALED(status)) {
        record->signal = WTERMSIG(status);
        record->code = 128 + record->signal;
    } else if (shim.our_kill || (shim.init_status >= 0 && WIFSIGNALED(shim.init_status) &&
                                 WTERMSIG(shim.init_status) == SIGKILL)) {
        record->signal = SIGKILL;
        record->code = 128 + SIGKILL;
    } else {
        if (shim.init_status >= 0 && WIFEXITED(shim.init_status))
            snprintf(lost, sizeof lost, "the job's init exited with %d and without a report",
                     WEXITSTATUS(shim.init_status));
        else if (shim.init_status >= 0)
            snprintf(lost, sizeof lost, "the job's init was killed by signal %d", WTERMSIG(shim.init_status));
        else
            snprintf(lost, sizeof lost, "the job's init ended and nobody saw how");
        record->lost = lost;
    }
    if (shim.lost != NULL)
        record->lost = shim.lost;
}

static void write_record(void)
{
    struct record record = {
        .code = -1,
        .stopped_by = shim.cause,
        .killed = shim.killed,
        .started_at = shim.started ? shim.started_at : 0,
        .finished_at = shim.ended_at != 0 ? shim.ended_at : sys_realtime(),
        .error = shim.error,
        .error_number = shim.error_number,
        .usage = usage,
    };
    how_it_ended(&record);
    if (record_write(&record, shim.config.sync) != 0)
        complain("the exit record could not be written: %m");
}

static void remove_folders(void)
{
    for (size_t i = 0; i < shim.config.rmdir_count; i++) {
        const char *path = shim.config.rmdirs[i];
        for (int left = RMDIR_TRIES; rmdir(path) != 0 && errno != ENOENT; left--) {
            struct timespec moment = {.tv_nsec = 5 * 1000 * 1000};
            if (errno != EBUSY || left == 0) {
                complain("cannot remove %s: %m", path);
                break;
            }
            nanosleep(&moment, NULL);
        }
    }
}

/* The kernel's lock around moves between control groups costs its taker a grace period of RCU, some 10 ms, unless
 * somebody has taken it within the last one (rcu_sync, Documentation/RCU). When jobs follow upon each other, this
 * move, which changes nothing any more, spares the next job's that wait. Nobody waits for us here. */
static void keep_cgroups_warm(void)
{
    if (shim.config.cgroup_touch != NULL && sys_write_file(shim.config.cgroup_touch, "0", 1) != 0)
        complain("cannot join %s: %m", shim.config.cgroup_touch);
}

void end_streams(void)
{
    if (!settled)
        return;
    streams_finish();
    if (shim.config.resumed != 0 && !shim.started)
        end_unborn(); /* it is on the disk as before */
    if (shim.suspended && !suspend_end()) {
        shim.suspended = false;
        shim.lost = "it was saved to disk, and that could not be recorded";
    }
    if (!shim.suspended) {
        log_end();
        write_record();
    }
    clients_stop_listening(shim.folder);
    size_t length;
    const char *record = record_text(&length);
    if (!shim.suspended)
        clients_broadcast(FRAME_ENDED, (const uint8_t *)record, length);
    clients_close();
    sessions_sweep();
    keep_cgroups_warm();
    remove_folders();
    _exit(0);
}

void end_unborn(void)
{
    static const char *const made[] = {"log/0000000001", "log/reserve", "control"};
    clients_stop_listening(shim.folder);
    clients_close();
    network_down();
    record_discard();
    for (size_t i = 0; i < sizeof made / sizeof *made && shim.config.resumed == 0; i++)
        unlinkat(shim.folder, made[i], 0);
    if (shim.config.resumed == 0)
        unlinkat(shim.folder, "log", AT_REMOVEDIR);
    remove_folders();
    _exit(0);
}
