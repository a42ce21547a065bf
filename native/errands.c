#include "errands.h"

#include <string.h>

#include "handed.h"
#include "sending.h"
#include "standing.h"

int errand(int argc, char **argv)
{
    if (argc > 2 && strcmp(argv[1], "-k") == 0)
        return sending(argv[2], argv[3]);
    if (argc > 2 && strcmp(argv[1], "-g") == 0)
        return handed_receive(argv[2]);
    if (argc > 3 && strcmp(argv[1], "-z") == 0)
        return standing(argv[2], argv[3]);
    return -1;
}
