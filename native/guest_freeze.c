/* A job that is suspended to disk: it stands still, and nothing of it is under way, neither to the host nor from it. */
#include <stdio.h>

#include "frame.h"
#include "guest.h"
#include "sys.h"

static bool frozen;

bool guest_is_frozen(void)
{
    return frozen;
}

/* https://docs.kernel.org/admin-guide/cgroup-v2.html, cgroup.freeze: with it the job sees no old clock when it goes on. */
static void stand(const char *still)
{
    sys_write_file(GUEST_CGROUP "/cgroup.freeze", still, 1);
}

void guest_freeze(void)
{
    if (frozen)
        return;
    frozen = true;
    stand("1");
    link_put(FRAME_GUEST_FROZEN, NULL, 0); /* behind all that was said */
}

void guest_thaw(const struct frame *go)
{
    const char *problem = guest_begin(go);
    if (problem != NULL)
        fprintf(stderr, "dms-guest: %s\n", problem); /* an old clock is no reason to lose a job */
    stand("0");
    frozen = false;
}
