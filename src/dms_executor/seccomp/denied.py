"""What no job may call, whatever the profile says.

containers-common's profile leaves `mount`, `unshare`, `setns`, new namespaces by `clone` and more to the capabilities.
But a user namespace gives its maker all of them, and much of the kernel's reachable faults behind it; so these go, as
in Docker's own profile: https://docs.docker.com/engine/security/seccomp/. And a socket of AF_VSOCK talks to the
hypervisor and to other guests from any network namespace (https://man7.org/linux/man-pages/man7/vsock.7.html), so no
job gets one; nor `socketcall`, which hides the family in memory and which no 32-bit libc needs since Linux 4.3.
"""

from __future__ import annotations

from .rules import Argument, Rule

__all__ = ["DENIED", "narrowed"]

DENIED: frozenset[str] = frozenset(
    """
    acct add_key bpf clock_adjtime clock_settime clock_settime64 create_module delete_module finit_module fsconfig
    fsmount fsopen fspick get_kernel_syms get_mempolicy init_module io_uring_enter io_uring_register io_uring_setup
    ioperm iopl kcmp kexec_file_load kexec_load keyctl lookup_dcookie mbind mount mount_setattr move_mount
    move_pages nfsservctl open_by_handle_at open_tree perf_event_open pivot_root query_module quotactl quotactl_fd
    reboot request_key set_mempolicy setdomainname sethostname setns settimeofday socketcall stime swapoff swapon syslog
    umount umount2 unshare uselib userfaultfd ustat vhangup vm86 vm86old
    """.split()  # noqa: SIM905 - a list of words, one a line, would hide the rest of the file
)
_EPERM = 1
_ENOSYS = 38
_NAMESPACES = 0x7E020000  # CLONE_NEW{CGROUP,UTS,IPC,USER,PID,NET,NS} of linux/sched.h
_VSOCK = 40  # AF_VSOCK of linux/socket.h
_FAMILIES = 46  # AF_MAX
_INT = 0xFFFFFFFF


def narrowed(rules: list[Rule]) -> list[Rule]:
    """`rules` without what is denied. The calls for namespaces stay, where they make none."""
    sockets = _sockets(rules)
    taken = DENIED | {"clone", "clone3"} | ({"socket"} if sockets else set())
    kept = [
        Rule(names=names, action=rule.action, args=rule.args, errno_ret=rule.errno_ret)
        for rule in rules
        if (names := [name for name in rule.names if name not in taken])
    ]
    return [
        *kept,
        *sockets,
        Rule(names=sorted(DENIED), action="SCMP_ACT_ERRNO", errno_ret=_EPERM),
        # clone3 hides its flags in memory; told that there is none, libc takes clone.
        Rule(names=["clone3"], action="SCMP_ACT_ERRNO", errno_ret=_ENOSYS),
        Rule(names=["clone"], action="SCMP_ACT_ALLOW", args=[_masked(_NAMESPACES, 0)]),
        *(
            Rule(names=["clone"], action="SCMP_ACT_ERRNO", errno_ret=_EPERM, args=[_masked(bit, bit)])
            for bit in (1 << number for number in range(32))
            if bit & _NAMESPACES
        ),
    ]


def _sockets(rules: list[Rule]) -> list[Rule]:
    """`socket` for every family but AF_VSOCK; empty where the profile has conditions of its own for it.

    Compared are the lower 32 bits, since the kernel looks at no more of them.
    """
    named = [rule for rule in rules if "socket" in rule.names]
    if any(rule.args or rule.action != "SCMP_ACT_ALLOW" for rule in named):
        return []
    if not named:
        return [Rule(names=["socket"], action="SCMP_ACT_ERRNO", errno_ret=_EPERM, args=[_masked(_INT, _VSOCK)])]
    # No rule that refuses beside those that allow: for 32-bit x86, where libseccomp turns both into `socketcall`
    # without the family, they would contradict each other. What is left over gets the profile's default.
    families = [family for family in range(_FAMILIES) if family != _VSOCK]
    return [Rule(names=["socket"], action="SCMP_ACT_ALLOW", args=[_masked(_INT, family)]) for family in families]


def _masked(mask: int, value: int) -> Argument:
    return Argument(index=0, value=mask, value_two=value, op="SCMP_CMP_MASKED_EQ")
