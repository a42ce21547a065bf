#include "vm_options.h"

#include <errno.h>
#include <sched.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "sys.h"
#include "vm_tap.h"
#include "vm_way.h"

#define USAGE                                                                                                              \
    "usage: dms-vm [-i] [-t COLUMNSxROWS] [-r] [-N NAMESPACE] [-u UID GID GROUP] [-d FOLDER] [-l SOCKET UID] [-a SOCKET] [-w WARM COLD] [-W FOLDER] [-C CALL BODY]... [-b] [-k] [-m] [-s FD] [-n TAP UID] [-f INTERFACE ADDRESS MASK GATEWAY OWN] [-j CGROUP_PROCS]... -- ARGV..."

static unsigned number(const char *word)
{
    return (unsigned)strtoul(word, NULL, 10);
}

/* How many words follow an option; -1: there is no such. */
static int words_of(char option)
{
    const char *found = strchr("i0r0b0k0m0s1t1N1u3d1l2a1w2W1C2n2f5j1", option);
    return option == 0 || found == NULL || (option >= '0' && option <= '9') ? -1 : found[1] - '0';
}

static const char *apply(char option, char **words, struct vm_options *options)
{
    switch (option) {
    case 'i':
        options->input = true;
        break;
    case 'r':
        options->raw = true;
        break;
    case 'k':
        options->template = true;
        break;
    case 'b':
        options->kept = true;
        break;
    case 'm':
        options->place.monitored = true;
        break;
    case 's':
        options->restored = (int)number(words[0]);
        break;
    case 'w':
        options->warm = number(words[0]);
        options->cold = number(words[1]);
        break;
    case 'W':
        options->warm_folder = words[0];
        break;
    case 'C':
        if (options->call_count == VM_CALLS)
            return USAGE;
        options->calls[options->call_count++] = (struct vm_call){words[0], words[1]};
        break;
    case 'u':
        options->owner.uid = number(words[0]);
        options->owner.gid = number(words[1]);
        options->owner.group = number(words[2]);
        break;
    case 'N':
        options->owner.network = words[0];
        break;
    case 'd':
        options->place.folder = words[0];
        break;
    case 'l':
        options->place.socket = words[0];
        options->place.caller = number(words[1]);
        break;
    case 'a':
        options->api = words[0];
        break;
    case 't':
        options->terminal = words[0];
        break;
    case 'n':
        options->tap = words[0];
        if (vm_tap_make(words[0], number(words[1]), options->owner.network) != 0)
            return "its network device cannot be made";
        break;
    case 'f':
        if (options->tap == NULL)
            return USAGE;
        if (vm_way_make(options->tap, words[0], words + 1) != 0)
            return "its network device cannot be connected";
        break;
    case 'j':
        if (sys_write_file(words[0], "0", 1) != 0)
            return words[0];
        break;
    }
    return NULL;
}

const char *vm_options_read(char **argv, struct vm_options *options)
{
    const char *problem;
    char **next = argv + 1;
    bool has_own = false;
    memset(options, 0, sizeof *options);
    errno = EINVAL;
    while (*next != NULL && strcmp(*next, "--") != 0) {
        char option = (*next)[0] == '-' && (*next)[1] != 0 && (*next)[2] == 0 ? (*next)[1] : 0;
        int count = words_of(option);
        next++;
        for (int i = 0; i < count; i++)
            if (next[i] == NULL)
                count = -1;
        if (count < 0)
            return USAGE;
        if ((problem = apply(option, next, options)) != NULL)
            return problem;
        has_own |= option == 'n' || option == 'N';
        next += count;
    }
    if (*next == NULL || next[1] == NULL)
        return USAGE;
    options->argv = next + 1;
    /* Whoever breaks out of a guest that has no network meets none of the host's either. */
    if (!has_own && unshare(CLONE_NEWNET) != 0)
        return "it cannot have a network namespace";
    return NULL;
}
