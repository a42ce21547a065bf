#include "files.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "sys.h"

#define NR_OPENAT2 437
#define CHUNK 4000u /* of a path in one call: PATH_MAX is 4,096 */

#define TEXT_MAX 4096     /* of a record */

/* linux/openat2.h */
#define NO_MAGIC_LINKS 0x02ull
#define NO_SYMLINKS 0x04ull
#define BENEATH 0x08ull

struct how {
    uint64_t flags, mode, resolve;
};

void files_tell(const char *kind, uint64_t number, const char *text)
{
    /* All of them together fit into a pipe that nobody reads yet. */
    char record[64 + TEXT_MAX];
    int length = snprintf(record, sizeof record, "%s%c%llu%c%.*s%c", kind, 0, (unsigned long long)number, 0, TEXT_MAX,
                          text, 0);
    if (length < 0 || sys_write_all(2, record, (size_t)length) != 0)
        _exit(3);
}

void files_die_of(int error, const char *what)
{
    files_tell("error", (uint64_t)error, what);
    _exit(1);
}

void files_die(const char *what)
{
    files_die_of(errno, what);
}

static bool is_ours(int namespace)
{
    struct stat theirs, ours;
    return fstat(namespace, &theirs) == 0 && stat("/proc/self/ns/user", &ours) == 0 && theirs.st_ino == ours.st_ino &&
           theirs.st_dev == ours.st_dev;
}

/* A flaw in what follows shall not reach further than the job's own root does. */
static void drop_capabilities(void)
{
    const uint32_t kept = 1u << CAP_CHOWN | 1u << CAP_DAC_OVERRIDE | 1u << CAP_FOWNER | 1u << CAP_FSETID;
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct data[2] = {{.effective = kept, .permitted = kept}};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 || syscall(SYS_capset, &header, data) != 0)
        files_die("cannot drop capabilities");
}

static void enter(int process)
{
    int user = openat(process, "ns/user", O_RDONLY | O_CLOEXEC);
    int mounts = openat(process, "ns/mnt", O_RDONLY | O_CLOEXEC);
    int root = openat(process, "root", O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (user < 0 || mounts < 0 || root < 0)
        files_die("cannot reach the job's files");
    bool other = !is_ours(user);
    /* A job in the same user namespace as ours may still belong to a user other than root; files are the root's. */
    if ((other && setns(user, CLONE_NEWUSER) != 0) || setns(mounts, CLONE_NEWNS) != 0)
        files_die("cannot enter the job's namespaces");
    if (fchdir(root) != 0 || chroot(".") != 0 || chdir("/") != 0)
        files_die("cannot enter the job's root");
    if (other) {
        if (setgroups(0, NULL) != 0 && errno != EPERM) /* EPERM: a user without privileges may not */
            files_die("cannot drop groups");
        if (setresgid(0, 0, 0) != 0 || setresuid(0, 0, 0) != 0)
            files_die("cannot become the job's root");
    }
    close(user);
    close(mounts);
    close(root);
    close(process);
    drop_capabilities();
}

void files_begin(bool in_job)
{
    sys_close_from(in_job ? 4 : 3);
    signal(SIGPIPE, SIG_IGN);
    if (in_job)
        enter(3);
    /* Last, since it does not outlast a change of user. */
    if (prctl(PR_SET_PDEATHSIG, SIGKILL) != 0)
        files_die("prctl");
}

size_t files_part(const char *path)
{
    size_t length = 0;
    while (path[length] != 0 && path[length] != '/')
        length++;
    return length;
}

bool files_same(const char *one, const char *other, size_t length)
{
    uint64_t left, right;
    for (; length >= sizeof left; length -= sizeof left, one += sizeof left, other += sizeof right) {
        memcpy(&left, one, sizeof left);
        memcpy(&right, other, sizeof right);
        if (left != right)
            return false;
    }
    return memcmp(one, other, length) == 0;
}

static int open_folder(int base, const char *path)
{
    struct how how = {
        .flags = O_PATH | O_DIRECTORY | O_CLOEXEC,
        .resolve = BENEATH | NO_SYMLINKS | NO_MAGIC_LINKS,
    };
    return (int)syscall(NR_OPENAT2, base, path, &how, sizeof how);
}

int files_folder(int base, const char *path)
{
    char part[CHUNK + 1];
    int at = fcntl(base, F_DUPFD_CLOEXEC, 3);
    while (at >= 0 && *path != 0) {
        size_t length = strlen(path), whole = length;
        if (length > CHUNK) {
            for (length = CHUNK; length > 0 && path[length] != '/'; length--)
                ;
            if (length == 0) {
                close(at);
                errno = ENAMETOOLONG;
                return -1;
            }
        }
        memcpy(part, path, length);
        part[length] = 0;
        path += length + (length < whole ? 1 : 0);
        int next = open_folder(at, part);
        int error = errno;
        close(at);
        errno = error;
        at = next;
    }
    return at;
}
