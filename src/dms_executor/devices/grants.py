"""From the devices and GPUs that a request names to what its job is given: nodes, mounts, variables, groups.

The policy says which names a request may use. What stands behind a name comes from the owner of the machine (root's CDI
specs) or from the kernel (PCI), and is not the request's to choose; so its host paths need no root of the policy's,
but what is refused under any policy is refused here, too.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec

from ..errors import EngineUnavailable, ExecutorError, InvalidRequest, NotSupported, PolicyDenied, ResourcesUnavailable
from ..policy import Grant, Granted, Policy, reopen
from ..types import GPU, ExecutionRequest
from . import gpus as gpu
from .allowed import allows, check_allowed
from .cdi import CdiMount, CdiNode, Edits
from .names import DeviceName, parse_name
from .registry import Found, Registry

__all__ = ["DeviceGrants", "Hooks", "MountGrant", "NodeGrant", "grant_devices", "reopen_node", "usable_gpu"]

Hooks = Literal["refuse", "skip", "run"]
DEV = Path("/dev")
_EVERYBODY = 0o666  # as the runtimes have it where a spec says nothing: the job is given the device, whatever its user
_OWNER = Policy(read_roots=("/",), write_roots=("/",))
_ALL = "all"
_Refused = Iterable[str | Path]


class NodeGrant(msgspec.Struct, frozen=True, kw_only=True):
    """A device node inside at `path`. `grant`: the host's own, where there is one. Ids None: the job's user's."""

    path: str
    kind: Literal["b", "c"]
    major: int
    minor: int
    mode: int = _EVERYBODY
    access: str = "rw"
    uid: int | None = None
    gid: int | None = None
    grant: Grant | None = None


class MountGrant(msgspec.Struct, frozen=True, kw_only=True):
    """What of the host is mounted at `target`; `restricted`: its device nodes are of no use."""

    target: str
    grant: Grant
    read_only: bool
    restricted: bool
    options: list[str]


class DeviceGrants(msgspec.Struct, frozen=True, kw_only=True):
    """All that was granted, as it stands in `Prepared.state`. `hooks` are as the runtime's configuration has them.

    `by_daemon`: NVIDIA's GPUs that the engine's daemon hands over, by UUID or index; `told`: for `inspect`.
    """

    nodes: list[NodeGrant] = []
    mounts: list[MountGrant] = []
    environment: dict[str, str] = {}
    groups: list[int] = []
    hooks: dict[str, list[dict[str, Any]]] = {}
    rdt: dict[str, Any] | None = None
    by_daemon: list[str] = []
    told: list[str] = []


def grant_devices(
    request: ExecutionRequest,
    policy: Policy,
    registry: Registry,
    *,
    refused: _Refused = (),
    hooks: Hooks = "refuse",
    by_daemon: Collection[str] = (),
) -> DeviceGrants:
    """Looks everything up and makes nothing. `by_daemon`: vendors whose GPUs the engine's daemon hands over. Blocks.

    Raises `InvalidRequest`, `PolicyDenied`, `ResourcesUnavailable` (not there), `EngineUnavailable` (no spec).
    """
    if not request.devices and not request.resources.gpus:
        return DeviceGrants()
    names = [_name(text, index, policy) for index, text in enumerate(request.devices)]
    found = registry.load()
    granting = _Granting(refused, hooks, by_daemon)
    for index, name in enumerate(names):
        for each in _resolved(name, f"$.devices[{index}]", found, policy, registry):
            granting.add_device(each)
    if request.resources.gpus:
        _add_gpus(request.resources.gpus, policy, found, granting)
    return granting.granted()


def usable_gpu(
    registry: Registry, hooks: Hooks, check: Callable[[DeviceGrants], None], by_daemon: Collection[str] = ()
) -> bool:
    """Whether any of the GPUs that are here could be given to a job; `check` raises where it cannot. Blocks."""
    here = gpu.discover()
    found = registry.load() if here else {}
    for one in here:
        try:
            granting = _Granting((), hooks, by_daemon)
            granting.add_gpu(one, here, found)
            check(granting.granted())
            return True
        except ExecutorError:
            continue
    return False


def reopen_node(node: NodeGrant) -> Granted | None:
    """The host's own node, if it is still that very device. Raises `PolicyDenied`."""
    if node.grant is None:
        return None
    granted = reopen(node.grant, field="$.devices")
    status = os.fstat(granted.fd)
    if _kind(status) == node.kind and (os.major(status.st_rdev), os.minor(status.st_rdev)) == (node.major, node.minor):
        return granted
    granted.close()
    raise PolicyDenied(
        f"$.devices: {node.grant.host_path!r} is another device than the one that was granted",
        mend="Leave a device in its place until the execution is finished",
    )


def _name(text: str, index: int, policy: Policy) -> DeviceName:
    path = f"$.devices[{index}]"
    try:
        name = parse_name(text)
    except ValueError as error:
        raise InvalidRequest(str(error), path=path, mend="CDI specs lie in /etc/cdi and /var/run/cdi") from error
    check_allowed(policy, str(name), field=path)
    return name


def _resolved(
    name: DeviceName, field: str, found: Mapping[DeviceName, Found], policy: Policy, registry: Registry
) -> list[Found]:
    """`all` of a kind: the spec's own device of that name, else every device of the kind that the policy allows."""
    if name in found:
        return [found[name]]
    kind = [each for key, each in found.items() if key.kind == name.kind and allows(policy, str(key))]
    if name.device == _ALL and kind:
        return sorted(kind, key=lambda each: each.name.device)
    known = ", ".join(sorted(str(each.name) for each in kind)) or "none of that kind"
    left_out = "".join(f"; left out: {what} ({why})" for what, why in registry.refused.items())
    raise InvalidRequest(f"there is no device {name}", path=field, mend=f"There is: {known}{left_out}")


def _add_gpus(wanted: Sequence[GPU], policy: Policy, found: Mapping[DeviceName, Found], granting: _Granting) -> None:
    here = gpu.discover()
    if not here:
        raise NotSupported(
            "$.resources.gpus: this host has no GPU that a driver serves",
            what="$.resources.gpus",
            mend="Leave gpus out, or load the driver of its GPU",
        )
    allowed = [each for each in here if allows(policy, *gpu.names_of(each.gpu))]
    for index, each in enumerate(wanted):
        field = f"$.resources.gpus[{index}]"
        matching = gpu.matching(each, [one.gpu for one in here])
        if not matching:
            there = "; ".join(gpu.described(one.gpu) for one in here) or "none"
            raise ResourcesUnavailable(
                f"{field}: there is no GPU {gpu.described(each)} here", mend=f"There is: {there}"
            )
        if not gpu.matching(each, [one.gpu for one in allowed]):
            check_allowed(policy, *gpu.names_of(matching[0]), field=field)
    chosen = gpu.assign(wanted, [each.gpu for each in allowed], ())
    if chosen is None:
        raise ResourcesUnavailable(
            f"$.resources.gpus: {len(wanted)} GPUs asked for, fewer are here that match", mend="Ask for fewer"
        )
    by_address = {each.gpu.pci_address: each for each in here}
    for one in chosen:
        granting.add_gpu(by_address[one.pci_address], here, found)


class _Granting:
    """Collects what the devices need, each spec's own part once."""

    def __init__(self, refused: _Refused, hooks: Hooks, by_daemon: Collection[str] = ()) -> None:
        self._refused = tuple(refused)
        self._hooks = hooks
        self._by_daemon = by_daemon
        self._handed: list[str] = []
        self._files: set[str] = set()
        self._names: set[DeviceName] = set()
        self._nodes: dict[str, NodeGrant] = {}
        self._mounts: dict[str, MountGrant] = {}
        self._environment: dict[str, str] = {}
        self._groups: set[int] = set()
        self._run: dict[str, list[dict[str, Any]]] = {}
        self._rdt: dict[str, Any] | None = None
        self._told: list[str] = []

    def granted(self) -> DeviceGrants:
        return DeviceGrants(
            nodes=list(self._nodes.values()),
            mounts=sorted(self._mounts.values(), key=lambda mount: mount.target.count("/")),
            environment=self._environment,
            groups=sorted(self._groups),
            hooks=self._run,
            rdt=self._rdt,
            by_daemon=self._handed,
            told=self._told,
        )

    def add_device(self, found: Found, why: str = "") -> None:
        if found.name in self._names:
            return
        self._names.add(found.name)
        edits = [found.device.container_edits]
        if found.file not in self._files:
            self._files.add(found.file)
            edits.insert(0, found.spec.container_edits)
        before = list(self._nodes)
        for each in edits:
            self._apply(each, str(found.name))
        nodes = [path for path in self._nodes if path not in before]
        self._told.append(f"device: {why}{found.name}" + (f" ({', '.join(nodes)})" if nodes else ""))

    def add_gpu(self, one: gpu.FoundGpu, here: Sequence[gpu.FoundGpu], found: Mapping[DeviceName, Found]) -> None:
        """By the vendor's CDI spec where there is one, since libraries of the driver come with it."""
        if one.gpu.vendor in self._by_daemon:
            self._handed.append(one.uuid or str(one.gpu.index))
            self._told.append(f"device: GPU {gpu.described(one.gpu)} by the daemon ({self._handed[-1]})")
            return
        spec = _device_of(one, here, found)
        if spec is not None:
            self.add_device(spec, f"GPU {gpu.described(one.gpu)} by ")
            return
        if one.gpu.vendor == "nvidia":
            raise EngineUnavailable(
                f"no CDI spec has the GPU {gpu.described(one.gpu)}, without which a job has no driver's library",
                mend="nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml",
            )
        for path in (*one.nodes, *one.shared):
            self._add_node(CdiNode(path=path), f"the GPU {gpu.described(one.gpu)}")
        self._told.append(f"device: GPU {gpu.described(one.gpu)} ({', '.join((*one.nodes, *one.shared))})")

    def _apply(self, edits: Edits, name: str) -> None:
        for variable in edits.env:
            key, _, value = variable.partition("=")
            self._environment[key] = value
        for node in edits.device_nodes:
            self._add_node(node, name)
        for mount in edits.mounts:
            self._add_mount(mount, name)
        self._groups.update(gid for gid in edits.additional_gids if gid > 0)
        self._add_hooks(edits, name)
        if edits.intel_rdt is not None:
            self._rdt = {key: value for key, value in msgspec.to_builtins(edits.intel_rdt).items() if value is not None}

    def _add_node(self, node: CdiNode, name: str) -> None:
        source = node.host_path or node.path
        status = grant = None
        try:
            with _OWNER.open(str(_real(source)), field="$.devices", refused=self._refused) as granted:
                status, grant = os.fstat(granted.fd), granted.grant
        except InvalidRequest as error:
            if node.major is None or node.minor is None or node.type not in ("b", "c", "u"):
                raise _absent(name, source) from error
        kind = "b" if node.type == "b" else "c" if node.type else _kind(status)
        if kind not in ("b", "c") or (status is not None and _kind(status) != kind):
            raise _absent(name, source)
        numbers = status.st_rdev if status is not None else 0
        major = os.major(numbers) if node.major is None else node.major
        minor = os.minor(numbers) if node.minor is None else node.minor
        if status is not None and (major, minor) != (os.major(numbers), os.minor(numbers)):
            grant = None  # the spec's own numbers count
        # Without m: a job cannot make nodes anyway, and one left in an output would lie on the host's file system.
        access = "".join(sorted(set(node.permissions or "rw") - {"m"}, key="rw".index))
        self._nodes[node.path] = NodeGrant(
            path=node.path,
            kind="b" if kind == "b" else "c",
            major=major,
            minor=minor,
            mode=_EVERYBODY if node.file_mode is None else node.file_mode & 0o777,
            access=access,
            uid=node.uid,
            gid=node.gid,
            grant=grant,
        )

    def _add_mount(self, mount: CdiMount, name: str) -> None:
        try:
            with _OWNER.open(mount.host_path, field="$.devices", refused=self._refused) as granted:
                grant = granted.grant
        except InvalidRequest as error:
            raise _absent(name, mount.host_path) from error
        self._mounts[mount.container_path] = MountGrant(
            target=mount.container_path,
            grant=grant,
            read_only="ro" in mount.options,
            restricted="dev" not in mount.options,
            options=mount.options,
        )

    def _add_hooks(self, edits: Edits, name: str) -> None:
        for hook in edits.hooks:
            said = f"{name}: the hook {hook.hook_name} {' '.join(hook.args[:3]) or hook.path}"
            if self._hooks == "skip":
                self._told.append(f"{said} is left out")
                continue
            if self._hooks == "refuse" or hook.hook_name == "poststop":
                later = " after the end, which no engine here runs" if hook.hook_name == "poststop" else ""
                raise PolicyDenied(
                    f"{said} would be run on the host as root{later}",
                    mend="The machine's owner can have them run by the setting cdi_hooks 'run', or left out by 'skip'",
                )
            self._told.append(f"{said} runs on the host")
            plain = {"path": hook.path, "args": hook.args, "env": hook.env, "timeout": hook.timeout}
            self._run.setdefault(hook.hook_name, []).append({key: value for key, value in plain.items() if value})


def _device_of(one: gpu.FoundGpu, here: Sequence[gpu.FoundGpu], found: Mapping[DeviceName, Found]) -> Found | None:
    """The CDI device that has this GPU's own nodes and no other GPU's."""
    mine = set(one.nodes)
    others = {path for each in here for path in each.nodes} - mine
    for name, each in sorted(found.items(), key=lambda pair: str(pair[0])):
        nodes = {node.host_path or node.path for node in each.device.container_edits.device_nodes}
        if name.kind == f"{one.gpu.vendor}.com/gpu" and nodes & mine and not nodes & others:
            return each
    return None


def _real(path: str) -> Path:
    """Host paths of nodes are beneath `DEV`, which the tests move."""
    return DEV / path[5:] if path.startswith("/dev/") else Path(path)


def _kind(status: os.stat_result | None) -> str:
    if status is None:
        return ""
    return "b" if stat.S_ISBLK(status.st_mode) else "c" if stat.S_ISCHR(status.st_mode) else ""


def _absent(name: str, path: str) -> ResourcesUnavailable:
    return ResourcesUnavailable(
        f"{name} needs {path!r}, which is not there or is another kind of file",
        mend="Plug it in, load its driver, or generate its CDI spec anew",
    )
