#include "options.h"

#include <stdlib.h>
#include <string.h>

/* Puts the words of one option into its place. How many they are beside its name, -1 for no such option. */
static int take(const char *name, char **words, int left, struct options *out)
{
    static const char valued[] = "rlcjtsiahud";
    if (name[0] != '-' || name[1] == 0 || name[2] != 0)
        return -1;
    if (strchr("woe", name[1]) != NULL) {
        *(name[1] == 'w' ? &out->waits : name[1] == 'o' ? &out->counts : &out->stays) = true;
        return 0;
    }
    if (name[1] == 'p' && left >= 2) {
        out->scripts = words[0];
        out->folder = words[1];
        return 2;
    }
    if (strchr(valued, name[1]) == NULL || left < 1)
        return -1;
    switch (name[1]) {
    case 'r': out->report = words[0]; break;
    case 'l': out->report = words[0]; out->lines = true; break;
    case 'h': out->room = words[0]; break;
    case 'd': out->limit = words[0]; break;
    case 'u': out->held = words[0]; break;
    case 'c': out->socket = words[0]; out->waits = out->stays = true; break;
    case 'j': out->group = atoi(words[0]); break;
    case 't': out->size = words[0]; break;
    case 's': out->filter = atoi(words[0]); break;
    case 'i': out->input = words[0]; break;
    default: out->attached = words[0]; break;
    }
    return 1;
}

bool options_parse(int argc, char **argv, struct options *out)
{
    int next = 1;
    *out = (struct options){.group = -1, .filter = -1};
    while (next < argc && strcmp(argv[next], "--") != 0) {
        int words = take(argv[next], argv + next + 1, argc - next - 1, out);
        if (words < 0)
            return false;
        next += 1 + words;
    }
    out->argv = argv + next + 1;
    return next + 1 < argc;
}
