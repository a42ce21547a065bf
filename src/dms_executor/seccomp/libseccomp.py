"""libseccomp by ctypes: a decided filter to a BPF program. The library comes with every crun and runc.

https://github.com/seccomp/libseccomp/blob/main/include/seccomp.h.in
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .profile import Filter
    from .rules import Argument, Rule

__all__ = ["export_bpf", "version"]

_ACTIONS = {
    "SCMP_ACT_ALLOW": 0x7FFF0000,
    "SCMP_ACT_LOG": 0x7FFC0000,
    "SCMP_ACT_ERRNO": 0x00050000,
    "SCMP_ACT_KILL": 0x00000000,
    "SCMP_ACT_KILL_PROCESS": 0x80000000,
}
_OPERATORS = {
    "SCMP_CMP_NE": 1,
    "SCMP_CMP_LT": 2,
    "SCMP_CMP_LE": 3,
    "SCMP_CMP_EQ": 4,
    "SCMP_CMP_GE": 5,
    "SCMP_CMP_GT": 6,
    "SCMP_CMP_MASKED_EQ": 7,
}
# The audit architecture of linux/audit.h, with x32 as libseccomp marks it.
_ARCHITECTURES = {
    "SCMP_ARCH_X86": 0x40000003,
    "SCMP_ARCH_X86_64": 0xC000003E,
    "SCMP_ARCH_X32": 0x4000003E,
    "SCMP_ARCH_ARM": 0x40000028,
    "SCMP_ARCH_AARCH64": 0xC00000B7,
}
_OPTIMIZE = 8  # SCMP_FLTATR_CTL_OPTIMIZE; 2: a binary tree, so that a frequent call is not the 300th comparison
_UNKNOWN = -1  # __NR_SCMP_ERROR
_EPERM = 1

_library: Any = None


def version() -> str:
    """ "2.5.4". Raises OSError where the library is missing."""
    import ctypes

    class _Version(ctypes.Structure):
        _fields_ = [("major", ctypes.c_uint), ("minor", ctypes.c_uint), ("micro", ctypes.c_uint)]

    call = _load().seccomp_version
    call.restype = ctypes.POINTER(_Version)
    found = call().contents
    return f"{found.major}.{found.minor}.{found.micro}"


def export_bpf(chosen: Filter, fd: int) -> None:
    """Writes the program into `fd`. Raises OSError."""
    library = _load()
    context = library.seccomp_init(_action(chosen.default_action, chosen.default_errno))
    if not context:
        raise OSError(errno.EINVAL, "seccomp_init refused the profile's default action")
    try:
        library.seccomp_attr_set(context, _OPTIMIZE, 2)  # refused by libseccomp < 2.5, which does without
        for name in chosen.architectures:
            token = _ARCHITECTURES.get(name)
            if token is not None:
                _checked(library.seccomp_arch_add(context, token), f"seccomp_arch_add {name}", -errno.EEXIST)
        for rule in chosen.rules:
            _add(library, context, rule, chosen)
        _checked(library.seccomp_export_bpf(context, fd), "seccomp_export_bpf")
    finally:
        library.seccomp_release(context)


def _add(library: Any, context: int, rule: Rule, chosen: Filter) -> None:
    action = _action(rule.action, rule.errno_ret)
    if action == _action(chosen.default_action, chosen.default_errno):
        return  # libseccomp refuses a rule that says what the default says
    for name in rule.names:
        number = library.seccomp_syscall_resolve_name(name.encode())
        if number == _UNKNOWN:
            continue  # newer than the library, or of another architecture
        for group in _groups(rule.args or []):
            comparisons = _comparisons(group)
            added = library.seccomp_rule_add_array(context, action, number, len(group), comparisons)
            # EDOM, EFAULT: the call does not exist on one of the architectures; EEXIST: said before.
            _checked(added, f"seccomp_rule_add {name}", -errno.EDOM, -errno.EFAULT, -errno.EEXIST)


def _groups(arguments: list[Argument]) -> list[list[Argument]]:
    """Comparisons of one call hold together, but two of the same argument are alternatives, as runc reads them.

    https://github.com/opencontainers/runc/blob/main/libcontainer/seccomp/seccomp_linux.go
    """
    indexes = [argument.index for argument in arguments]
    if len(set(indexes)) == len(indexes):
        return [arguments]
    return [[argument] for argument in arguments]


def _comparisons(arguments: list[Argument]) -> Any:
    import ctypes

    class _Comparison(ctypes.Structure):
        _fields_ = [("arg", ctypes.c_uint), ("op", ctypes.c_int), ("a", ctypes.c_uint64), ("b", ctypes.c_uint64)]

    rows = [
        _Comparison(argument.index, _OPERATORS[argument.op], argument.value, argument.value_two)
        for argument in arguments
    ]
    return (_Comparison * len(rows))(*rows)


def _action(name: str, code: int | None) -> int:
    if name == "SCMP_ACT_ERRNO":
        return _ACTIONS[name] | ((_EPERM if code is None else code) & 0xFFFF)
    return _ACTIONS[name]


def _checked(result: int, what: str, *allowed: int) -> None:
    if result < 0 and result not in allowed:
        raise OSError(-result, f"{what}: {os.strerror(-result)}")


def _load() -> Any:
    global _library
    if _library is not None:
        return _library
    import ctypes

    library = ctypes.CDLL("libseccomp.so.2")
    library.seccomp_init.restype = ctypes.c_void_p
    library.seccomp_init.argtypes = [ctypes.c_uint32]
    library.seccomp_release.argtypes = [ctypes.c_void_p]
    library.seccomp_release.restype = None
    library.seccomp_attr_set.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_uint32]
    library.seccomp_arch_add.argtypes = [ctypes.c_void_p, ctypes.c_uint32]
    library.seccomp_syscall_resolve_name.argtypes = [ctypes.c_char_p]
    library.seccomp_rule_add_array.argtypes = [
        ctypes.c_void_p,
        ctypes.c_uint32,
        ctypes.c_int,
        ctypes.c_uint,
        ctypes.c_void_p,
    ]
    library.seccomp_export_bpf.argtypes = [ctypes.c_void_p, ctypes.c_int]
    _library = library
    return library
