"""Docker's default capabilities but one, masked paths and read-only paths: what a job gets at most.

Not CAP_MKNOD: a device node that a job makes in an output lies on the host's file system afterwards, where no device
cgroup of the job's guards it.

https://github.com/moby/moby/blob/master/oci/caps/defaults.go, https://github.com/moby/moby/blob/master/oci/defaults.go
"""

from __future__ import annotations

__all__ = ["DEFAULT_CAPABILITIES", "MASKED_PATHS", "READONLY_PATHS"]

DEFAULT_CAPABILITIES: tuple[str, ...] = (
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
)

MASKED_PATHS: tuple[str, ...] = (
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
)

# Docker's, and /proc/dynamic_debug: a job's root without a user namespace could switch on the kernel's debug messages.
READONLY_PATHS: tuple[str, ...] = (
    "/proc/bus",
    "/proc/dynamic_debug",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
)
