"""What a job sees of itself and of its host, asked by a busybox shell in it: the audit's measuring instrument.

Nothing here judges. `look` gives one value for each aspect, with what differs from run to run (ids of a range, names of
version 1's hierarchies) put into words. An engine of any kind can be asked, as long as its jobs have a shell.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

__all__ = ["SCRIPT", "look", "read_limits"]

_FLAGS = {"ro", "rw", "nosuid", "nodev", "noexec"}
_KERNELS = ("proc", "cgroup", "cgroup2", "devtmpfs")
_STATUS = ("Uid", "Gid", "Groups", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp")

# What somebody in it may not learn: each is empty, refused, missing or has nothing in it but zeros.
_SECRETS = (
    "/proc/kcore /proc/kmsg /proc/keys /proc/kallsyms /proc/timer_list /proc/sched_debug /proc/interrupts"
    " /proc/iomem /proc/slabinfo /proc/vmallocinfo /proc/pagetypeinfo /proc/kpagecount /dev/mem /dev/kmsg"
)

SCRIPT = rf"""
part() {{ echo "=== $1"; }}
part status; cat /proc/self/status
part maps; cat /proc/self/uid_map /proc/self/gid_map
part namespaces; for kind in /proc/self/ns/*; do readlink $kind; done | sort -u
part mounts; cat /proc/self/mountinfo
part nodes; find / \( -path /proc -o -path /sys \) -prune -o \( -type c -o -type b \) \
 -exec stat -c '%n %t:%T %a %u:%g' {{}} \;
part limits; cat /proc/self/limits
part cgroup; cat /proc/self/cgroup
part bounds; cat /sys/fs/cgroup/pids/pids.max /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null
cat /sys/fs/cgroup/pids.max /sys/fs/cgroup/memory.max 2>/dev/null
part network; ls /sys/class/net 2>/dev/null || sed 1,2d /proc/net/dev | cut -d: -f1
part addresses; sed 1d /proc/net/route; cut -d' ' -f1 /proc/net/if_inet6 2>/dev/null
part sockets; sed 1d /proc/net/unix; sed 1d /proc/net/tcp; sed 1d /proc/net/udp
part processes; for p in /proc/[0-9]*; do tr '\0' '\n' 2>/dev/null <$p/cmdline | head -n 1; done | sort -u
part writable; find /proc /sys -path '/proc/[0-9]*' -prune -o -type f -perm /222 -print 2>/dev/null |
 while read -r file; do true 2>/dev/null >>"$file" && echo "$file"; done
part secrets; for file in {_SECRETS}; do [ -e $file ] || {{ echo $file absent; continue; }}
 what=$(timeout 2 head -c 4096 $file 2>&1 | tr -d '\0' | head -c 1000 | tr '\n' ' '); echo "$file $what"; done
part devices; ls -a /dev
part root; ls -a /
part firmware; ls -A /sys/firmware /proc/acpi /proc/scsi 2>/dev/null | grep -v ':$'
part descriptors; for fd in $(seq 0 300); do [ -L /proc/self/fd/$fd ] && echo $fd; done
part environment; env | cut -d= -f1 | sort
part host; hostname; cat /etc/hostname
part end
"""


def look(stdout: str, user_first: str, token: str) -> dict[str, Any]:
    """The aspects out of what `SCRIPT` printed. `user_first`: the first id of the job's range, or "" for the host's."""
    parts = _parts(stdout)
    status = dict(line.split(":", 1) for line in parts["status"] if ":" in line)
    return {
        "privileges": {name: " ".join(status[name].split()) for name in _STATUS if name in status},
        "ids": [_in_words(line, user_first) for line in parts["maps"]],
        "namespaces": _namespaces(parts["namespaces"]),
        "mounts": {_mount(line) for line in parts["mounts"]},
        "shown paths": {_source(line, token) for line in parts["mounts"]} - {""},
        "device nodes": {tuple(line.split()) for line in parts["nodes"]},
        "limits": read_limits(parts["limits"]),
        "cgroup": {line.split(":", 2)[2].replace(token, "its token") for line in parts["cgroup"]},
        "bounds": parts["bounds"],
        "network": [name.strip() for name in parts["network"]],
        "addresses": {_address(line) for line in parts["addresses"]},
        "sockets": parts["sockets"],
        "processes": set(parts["processes"]) - {"tr", "head", "sort"},
        "writable kernel files": set(parts["writable"]),
        "secrets": {line.partition(" ")[0] for line in parts["secrets"] if _tells(line)},
        "/dev": set(parts["devices"]) - {".", ".."},
        "/": set(parts["root"]) - {".", ".."},
        "firmware": parts["firmware"],
        "descriptors": parts["descriptors"],
        "environment": set(parts["environment"]) - {"PWD", "SHLVL"},
        "host": set(parts["host"]),
    }


def read_limits(lines: list[str]) -> dict[str, tuple[str, str]]:
    """`/proc/<pid>/limits`: soft and hard limit by name."""
    found = {}
    for line in lines:
        matched = re.match(r"(Max [a-z -]+?)\s{2,}(\S+)\s+(\S+)", line)
        if matched:
            found[matched[1]] = (matched[2], matched[3])
    return found


def _parts(stdout: str) -> dict[str, list[str]]:
    parts: dict[str, list[str]] = {}
    current: list[str] = []
    for line in stdout.splitlines():
        if line.startswith("=== "):
            current = parts.setdefault(line[4:], [])
        elif line.strip():
            current.append(line)
    if "end" not in parts:
        raise AssertionError(f"the job did not get through: {stdout[-300:]}")
    return parts


def _in_words(line: str, first: str) -> str:
    fields = line.split()
    return " ".join("its range" if first and field == first else field for field in fields)


def _namespaces(lines: list[str]) -> dict[str, str]:
    found = {}
    for line in lines:
        kind = line.partition(":")[0]
        try:
            ours = Path(f"/proc/self/ns/{kind}").readlink()
        except OSError:
            continue
        found[kind] = "the host's" if str(ours) == line else "its own"
    return found


def _mount(line: str) -> tuple[str, str, str]:
    """Place, file system and the flags that count."""
    fields = line.split()
    root, place, kind = fields[3], fields[4], fields[fields.index("-") + 1]
    if kind == "cgroup":
        place = "/sys/fs/cgroup/*"
    elif root != "/" and kind not in _KERNELS:
        kind = "bind"
    flags = [flag for flag in fields[5].split(",") if flag in _FLAGS]
    return place, kind, " ".join(sorted(flags))


def _address(line: str) -> str:
    """Of a route: interface, destination, gateway and mask, as the kernel has them; of IPv6 the address."""
    fields = line.split()
    if len(fields) == 1:
        return "link-local" if line.startswith("fe80") else line.strip()
    return " ".join((fields[0], fields[1], fields[2], fields[7]))


def _source(line: str, token: str) -> str:
    """The path of the host that a mount shows, unless it is the root of its file system."""
    fields = line.split()
    root, kind = fields[3], fields[fields.index("-") + 1]
    if root == "/" or kind in _KERNELS:
        return ""
    return re.sub(rf"^.*/{token}/", "its folder/", root)


def _tells(line: str) -> bool:
    """Whether a file that it could open has more in it than addresses that are zeros."""
    name, _, text = line.partition(" ")
    if not text.strip() or text.strip() == "absent" or text.startswith(("head: ", "Terminated")):
        return False
    if name in ("/proc/kallsyms", "/proc/iomem"):
        return any(set(address) != {"0"} for address in re.findall(r"\b[0-9a-f]{8,16}\b", text))
    return True
