"""`Policy`: which host paths, networks, devices and registries a request may touch.

A request comes from a stranger, the policy from the owner of the machine. A path is resolved by the kernel beneath one
of the policy's roots, and what comes back is an opened descriptor: who swaps the path afterwards changes nothing.
A `Grant` says what was granted, survives on disk, and is opened again later whatever the policy is then; another file
in its place is refused.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, Self

import msgspec

from .beneath import open_beneath, open_in_root
from .errors import InvalidRequest, PolicyDenied
from .shown import shown

__all__ = ["Grant", "Granted", "Limit", "Policy", "reopen"]

Limit = Literal["cpu", "memory", "disk", "pids"]
_Root = str | Path

# A folder that holds one of these is refused, too: a socket answers through a read-only mount as well.
_SOCKETS = (
    "/run/docker.sock",
    "/var/run/docker.sock",
    "/run/podman/podman.sock",
    "/run/containerd/containerd.sock",
    "/run/crio/crio.sock",
)


class Grant(msgspec.Struct, frozen=True, kw_only=True):
    """What was granted: `path` beneath `root`, and which file stood there. Bytes, since host paths may be any."""

    root: bytes
    path: bytes
    device: int
    inode: int
    is_dir: bool
    write: bool = False

    @property
    def host_path(self) -> str:
        """The path as text, for messages and results."""
        return os.fsdecode(os.path.normpath(os.path.join(self.root, self.path)))  # noqa: PTH118


class Granted:
    """An opened descriptor (`O_PATH`) with its grant. Closed by `close` or at the end of a `with`."""

    def __init__(self, fd: int, grant: Grant) -> None:
        self.fd = fd
        self.grant = grant

    @property
    def root(self) -> bytes:
        return self.grant.root

    @property
    def device(self) -> int:
        return self.grant.device

    @property
    def inode(self) -> int:
        return self.grant.inode

    @property
    def is_dir(self) -> bool:
        return self.grant.is_dir

    def close(self) -> None:
        """Idempotent."""
        if self.fd >= 0:
            os.close(self.fd)
        self.fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """What a request may touch. The default: no host path, no network of the host's, no device.

    `read_roots`, `write_roots`: folders beneath which a request may name paths (a write root may be read, too).
    `networks`: allowed values of a request's `network`; "*" is any. `volumes`: a daemon's volumes that may be mounted,
    read-only or not; "*" is any. `registries`: hosts, with a port where they have one, from which a request's image may
    come ("docker.io", "registry.example:5000"); "*" is any. `unenforced`: limits that may go unenforced.
    `missing_defaults`: what to do with a default limit that this host cannot enforce, refuse the request or record it.
    """

    read_roots: Sequence[_Root] = ()
    write_roots: Sequence[_Root] = ()
    networks: Sequence[str] = ("none", "user")
    devices: Sequence[str] = ()
    volumes: Sequence[str] = ()
    registries: Sequence[str] = ("*",)
    unenforced: Sequence[Limit] = ()
    missing_defaults: Literal["refuse", "record"] = "refuse"

    @classmethod
    def trusted(cls) -> Policy:
        """For requests that the machine's owner writes: what this user may read and write, every network."""
        root, every = ("/",), ("*",)
        roots = cls(read_roots=root, write_roots=root, missing_defaults="record")
        return msgspec.structs.replace(roots, networks=every, devices=every, volumes=every)

    def check_network(self, network: str) -> None:
        """Raises `PolicyDenied`."""
        if network not in self.networks and "*" not in self.networks:
            raise PolicyDenied(
                f"$.network: the policy does not allow the network {network!r}",
                mend=f"Its owner can allow it by Policy(networks=(..., {network!r}))",
            )

    def check_volume(self, name: str, *, field: str) -> None:
        """Raises `PolicyDenied`."""
        if name not in self.volumes and "*" not in self.volumes:
            raise PolicyDenied(
                f"{field}: the policy does not allow the volume {name!r}",
                mend=f"Its owner can allow it by Policy(volumes=(..., {name!r}))",
            )

    def check_registry(self, registry: str, *, field: str) -> None:
        """Raises `PolicyDenied`."""
        if registry not in self.registries and "*" not in self.registries:
            raise PolicyDenied(
                f"{field}: the policy does not allow images from {registry!r}",
                mend=f"Its owner can allow it by Policy(registries=(..., {registry!r}))",
            )

    def open(self, path: str, *, write: bool = False, field: str = "$", refused: Iterable[_Root] = ()) -> Granted:
        """The existing `path`, opened. `refused`: folders that are never granted, nor what is in or above them.

        Raises `InvalidRequest` (relative, NUL, missing) or `PolicyDenied`.
        """
        _check_text(path, field)
        try:
            granted = self._resolve(os.fsencode(path), write, field)
        except FileNotFoundError as error:
            raise InvalidRequest(f"{path!r} does not exist", path=field, mend="Make it, or name another") from error
        except NotADirectoryError as error:
            raise InvalidRequest(f"{path!r} leads through a file", path=field, mend="Name another path") from error
        try:
            _refuse(granted, path, field, refused)
            _check_access(granted, path, write, field)
        except BaseException:
            granted.close()
            raise
        return granted

    def find_folder(self, path: str, *, field: str, refused: Iterable[_Root] = ()) -> Granted | None:
        """The writable folder `path`, or None where it is absent but may be made. Makes nothing."""
        _check_text(path, field)
        for depth, ancestor in enumerate(_upwards(path)):
            try:
                granted = self._resolve(os.fsencode(ancestor), True, field)
            except FileNotFoundError:
                continue
            except NotADirectoryError as error:
                raise _not_a_folder(path, field) from error
            return self._checked_folder(granted, path, field, refused, missing=depth > 0)
        raise self._denied(path, True, field)

    def make_folder(self, path: str, *, field: str, refused: Iterable[_Root] = (), mode: int = 0o755) -> Granted:
        """The writable folder `path`, made where it is absent, with the folders above it beneath the same root."""
        found = self.find_folder(path, field=field, refused=refused)
        if found is not None:
            return found
        for ancestor in reversed(_upwards(path)):
            self._make_one(ancestor, field, mode)
        return self.open(path, write=True, field=field, refused=refused)

    def _make_one(self, path: str, field: str, mode: int) -> None:
        parent, name = os.path.split(path)
        if not name or self._exists(path, field):
            return
        try:
            above = self._resolve(os.fsencode(parent), True, field)
        except PolicyDenied:
            return  # above the root: what is beneath decides
        with above:
            try:
                os.mkdir(os.fsencode(name), mode, dir_fd=above.fd)
            except FileExistsError:
                return  # somebody else made it, or put a link there: the open that follows resolves it
            except OSError as error:
                raise InvalidRequest(f"{path!r} cannot be made: {error.strerror}", path=field) from error

    def _exists(self, path: str, field: str) -> bool:
        try:
            self._resolve(os.fsencode(path), True, field).close()
        except (FileNotFoundError, PolicyDenied):
            return False
        return True

    def _checked_folder(
        self, granted: Granted, path: str, field: str, refused: Iterable[_Root], *, missing: bool
    ) -> Granted | None:
        with _closed_on_error(granted):
            if not granted.is_dir:
                raise _not_a_folder(path, field)
            if missing:
                # A folder yet to be made beneath `/` is no grant of `/`; one beneath the state folder is refused.
                _refuse(granted, path, field, refused, above=False)
            else:
                _refuse(granted, path, field, refused)
            _check_access(granted, path, True, field)
        if missing:
            granted.close()
            return None
        return granted

    def _resolve(self, path: bytes, write: bool, field: str) -> Granted:
        """Beneath the first root that has it. Raises FileNotFoundError, NotADirectoryError, `PolicyDenied`."""
        last: OSError | None = None
        for root in self._roots(write):
            relative = _relative(path, root)
            if relative is None:
                continue
            try:
                return _open_grant(root, relative, write)
            except OSError as error:
                last = last if isinstance(last, FileNotFoundError) else error
        if isinstance(last, (FileNotFoundError, NotADirectoryError)):
            raise last
        raise self._denied(os.fsdecode(path), write, field, last) from last

    def _roots(self, write: bool) -> list[bytes]:
        given = list(self.write_roots) if write else [*self.read_roots, *self.write_roots]
        roots = {os.path.normpath(os.fsencode(root)) for root in given}
        return sorted(roots, key=len, reverse=True)

    def _denied(self, path: str, write: bool, field: str, cause: OSError | None = None) -> PolicyDenied:
        option = "write_roots" if write else "read_roots"
        why = _REASONS.get(cause.errno or 0, f": {cause.strerror}") if cause else ""
        return PolicyDenied(
            f"{field}: the policy does not allow {path!r} to be {'written' if write else 'read'}{why}",
            mend=f"The machine's owner can allow it by Policy({option}=(..., {os.path.dirname(path) or '/'!r}))",  # noqa: PTH120
        )


_REASONS = {
    errno.EXDEV: ": it leads out of the allowed root",
    errno.ELOOP: ": it leads through a magic link (/proc/*/fd, /proc/*/root) or a loop of symlinks",
    errno.EAGAIN: ": it is being swapped at this moment",
}


def reopen(grant: Grant, *, field: str = "$") -> Granted:
    """What was granted, opened again, whatever the policy is now. Raises `PolicyDenied` if another stands there."""
    try:
        granted = _open_grant(grant.root, grant.path, grant.write)
    except OSError as error:
        raise PolicyDenied(
            f"{field}: {grant.host_path!r} is not what was granted: {error.strerror}",
            mend="Leave what a request names in its place until the execution is finished",
        ) from error
    if (granted.device, granted.inode, granted.is_dir) == (grant.device, grant.inode, grant.is_dir):
        return granted
    granted.close()
    raise PolicyDenied(
        f"{field}: {grant.host_path!r} was swapped for another file since it was granted",
        mend="Leave what a request names in its place until the execution is finished",
    )


def _open_grant(root: bytes, relative: bytes, write: bool) -> Granted:
    # The owner of the machine chose the root, so its own symlinks count; the request's are beneath it.
    folder = os.open(root, os.O_PATH | os.O_CLOEXEC)
    try:
        if relative == b".":
            fd = os.dup(folder)
        elif root == b"/":
            # IN_ROOT so that absolute symlinks work: beneath `/` there is nothing outside.
            fd = open_in_root(folder, relative)
        else:
            fd = open_beneath(folder, relative)
    finally:
        os.close(folder)
    status = os.fstat(fd)
    grant = Grant(
        root=root,
        path=relative,
        device=status.st_dev,
        inode=status.st_ino,
        is_dir=stat.S_ISDIR(status.st_mode),
        write=write,
    )
    return Granted(fd, grant)


def _check_text(path: str, field: str) -> None:
    if "\0" in path:
        raise InvalidRequest("a path holds no NUL", path=field, mend="Name an absolute path")
    if not path.startswith("/"):
        raise InvalidRequest(f"{path!r} is not absolute", path=field, mend="Name an absolute path")
    if len(os.fsencode(path)) > 4095:  # PATH_MAX of linux/limits.h
        raise InvalidRequest("a path has at most 4095 bytes", path=field, mend="Name a shorter path")


def _relative(path: bytes, root: bytes) -> bytes | None:
    """`path` as it stands beneath `root`, both absolute; `..` stays in it for the kernel to judge."""
    parts = [part for part in path.split(b"/") if part not in (b"", b".")]
    above = [part for part in root.split(b"/") if part not in (b"", b".")]
    if parts[: len(above)] != above:
        return None
    return b"/".join(parts[len(above) :]) or b"."


def _upwards(path: str) -> list[str]:
    """`path` and all folders above it, itself first."""
    current = "/" + "/".join(part for part in path.split("/") if part not in ("", "."))
    found = [current]
    while current != "/":
        current = os.path.dirname(current)  # noqa: PTH120
        found.append(current)
    return found


def _refuse(granted: Granted, path: str, field: str, refused: Iterable[_Root], *, above: bool = True) -> None:
    """Refuses `/`, container sockets, `refused`, what is in them and (`above`) what holds them, under any policy.

    However they come there: by a path, or by a mount of the owner's beneath it.
    """
    refused = list(refused)
    own = (granted.device, granted.inode)
    chain = _identities(os.fsencode(f"/proc/self/fd/{granted.fd}"), own)
    root = os.lstat("/")
    if above and own == (root.st_dev, root.st_ino):
        raise _always_refused(path, "/", field)
    for never in (*refused, *_sockets()):
        levels = _identities(os.fsencode(never))
        # A path that does not exist yet has no identity of its own: only what holds it is known.
        exists = os.path.lexists(never)
        if (above and own in levels) or (exists and levels[0] in chain):
            raise _always_refused(path, os.fspath(never), field)
    mounted = shown(granted.fd, [*refused, *_sockets()], beneath=above)
    if mounted is not None:
        raise _always_refused(path, mounted, field)


def _always_refused(path: str, never: str, field: str) -> PolicyDenied:
    return PolicyDenied(
        f"{field}: {path!r} is refused under any policy, because of {never!r}",
        mend="Name another path; '/', container sockets and the executor's state folder are never granted",
    )


def _sockets() -> Iterator[str]:
    yield from _SOCKETS
    yield f"/run/user/{os.getuid()}/docker.sock"
    yield f"/run/user/{os.getuid()}/podman/podman.sock"
    for name in ("DOCKER_HOST", "CONTAINER_HOST"):
        scheme, _, rest = os.environ.get(name, "").partition("://")
        if scheme == "unix" and rest.startswith("/"):
            yield rest


def _identities(path: bytes, own: tuple[int, int] | None = None) -> list[tuple[int, int]]:
    """Device and inode of `path` (its symlinks followed) and of all folders above it that exist."""
    real = os.readlink(path) if own else os.path.realpath(path)
    found: list[tuple[int, int]] = []
    while True:
        try:
            status = os.lstat(real)
            found.append((status.st_dev, status.st_ino))
        except OSError:
            if own:
                break
        if real == b"/":
            break
        real = os.path.dirname(real)  # noqa: PTH120
    if own and (not found or found[0] != own):
        # Renamed or unlinked at this moment, so that nobody can say what holds it.
        raise PolicyDenied(f"{os.fsdecode(real)!r} is being moved", mend="Leave what a request names in its place")
    return found


def _check_access(granted: Granted, path: str, write: bool, field: str) -> None:
    wanted = os.R_OK | (os.W_OK if write else 0) | (os.X_OK if granted.is_dir else 0)
    if not os.access(f"/proc/self/fd/{granted.fd}", wanted):
        raise PolicyDenied(
            f"{field}: the executor's user may not {'write' if write else 'read'} {path!r}",
            mend="Give that user the permission, or name another path",
        )


def _not_a_folder(path: str, field: str) -> InvalidRequest:
    return InvalidRequest(f"{path!r} is not a folder", path=field, mend="Name a folder")


@contextmanager
def _closed_on_error(granted: Granted) -> Iterator[None]:
    try:
        yield
    except BaseException:
        granted.close()
        raise
