"""Inputs, outputs and `results_dir`: what a request says of them, what is granted, and what is brought home.

An output is bound live at its source, so that collecting is verifying: nothing is copied, and what the job wrote is
there however it ended. Independent of engines; each hands the granted descriptors to its own mounts.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec

from .errors import InvalidRequest, ResourcesUnavailable
from .logs import LogReader
from .logs.format import STDERR, STDOUT
from .mounts import RESERVED_TARGETS, check_volumes, named_mounts, output_source, tangled
from .policy import Grant, Granted, Policy, reopen
from .setid import strip_setid
from .typed import known
from .types import ExecutionRequest, Output, StorageVolume

__all__ = [
    "RESERVED_TARGETS",
    "Volume",
    "Volumes",
    "check_volumes",
    "collect",
    "collect_outputs",
    "grant_volumes",
    "plain_volumes",
    "results_grant",
    "verify_volumes",
    "write_results",
]

_Refused = Iterable[str | Path]


class Volume(msgspec.Struct, frozen=True, kw_only=True):
    """One mount of the job: what is granted of the host, else the engine's volume `name`, else a tmpfs of `size` bytes
    (None: bounded by the job's memory only).
    """

    target: str
    field: str
    read_only: bool
    output: bool = False
    grant: Grant | None = None
    size: int | None = None
    name: str | None = None


class Volumes(msgspec.Struct, frozen=True, kw_only=True):
    """All that was granted, parents before what is mounted inside them. Part of `Prepared.state` as "volumes"."""

    mounts: list[Volume] = []
    results: Grant | None = None
    stdin: Grant | None = None


def verify_volumes(request: ExecutionRequest, policy: Policy, refused: _Refused) -> None:
    """Opens every host path that the request names, and makes nothing. Raises `InvalidRequest`, `PolicyDenied`."""
    for field, volume, is_output in named_mounts(request):
        if volume.type == "volume":
            policy.check_volume(volume.source or "", field=f"{field}.source")
        if volume.type != "bind":
            continue
        if is_output:
            _close(policy.find_folder(output_source(volume, request), field=f"{field}.source", refused=refused))
        else:
            _open_input(volume, field, policy, refused).close()
    if request.stdin_file is not None:
        _open_stdin(request.stdin_file, policy, refused).close()
    if request.results_dir is not None:
        results = policy.find_folder(request.results_dir, field="$.results_dir", refused=refused)
        if results is not None:
            with results:
                _check_empty(results, request.results_dir)


def grant_volumes(request: ExecutionRequest, policy: Policy, refused: _Refused) -> Volumes:
    """What `verify_volumes` looked at, for good: makes `results_dir` and absent output folders."""
    results = None
    if request.results_dir is not None:
        with policy.make_folder(request.results_dir, field="$.results_dir", refused=refused) as granted:
            _check_empty(granted, request.results_dir)
            os.close(_make_outputs_folder(granted.fd))
            results = granted.grant
    stdin = None
    if request.stdin_file is not None:
        with _open_stdin(request.stdin_file, policy, refused) as granted:
            stdin = granted.grant
    mounts = [
        _grant(field, volume, is_output, request, policy, refused) for field, volume, is_output in named_mounts(request)
    ]
    mounts.sort(key=lambda mount: mount.target.count("/"))
    _check_grants_apart(mounts, results)
    return Volumes(mounts=mounts, results=results, stdin=stdin)


def plain_volumes(request: ExecutionRequest) -> Volumes | None:
    """What `grant_volumes` gives for a request that names no host path; None for one that does."""
    if request.inputs or request.outputs or request.results_dir is not None or request.stdin_file is not None:
        return None
    return Volumes(mounts=[], results=None, stdin=None)


def collect(volumes: Volumes, folder: Path, exit_code: int | None) -> list[Output]:
    """What an engine's `collect` does: `collect_outputs` and `write_results`. Blocks.

    Raises `PolicyDenied`, `ResourcesUnavailable` (a full disk).
    """
    try:
        outputs = collect_outputs(volumes)
    except OSError as error:
        raise ResourcesUnavailable(
            f"set-user-id bits cannot be taken away in the outputs: {error.strerror}",
            mend="Mend the file system that they lie on, and look there for files that have such a bit",
        ) from error
    if volumes.results is None:
        return outputs
    try:
        write_results(volumes.results, folder, exit_code)
    except OSError as error:
        raise ResourcesUnavailable(
            f"$.results_dir: {volumes.results.host_path!r} cannot be written: {error.strerror}", mend="Free space there"
        ) from error
    return outputs


def collect_outputs(volumes: Volumes) -> list[Output]:
    """The outputs, each verified to be the folder that was granted. Follows no symlink that the job left.

    No file in them, or in an input that could be written, keeps a set-user-id bit or capabilities. Raises OSError.
    """
    outputs = []
    for mount in volumes.mounts:
        if mount.grant is None or mount.read_only:
            continue
        with reopen(mount.grant, field=f"{mount.field}.source") as granted:
            strip_setid(granted.fd)
        if mount.output:
            outputs.append(Output(target=mount.target, path=mount.grant.host_path))
    return outputs


def results_grant(state: dict[str, Any]) -> Grant | None:
    """The granted `results_dir` out of `Prepared.state` or `Handle.state`; None where the request has none."""
    plain = state.get("volumes")
    return msgspec.convert(plain, known(Volumes)).results if plain is not None else None


def write_results(results: Grant, folder: Path, exit_code: int | None) -> None:
    """Writes `stdout`, `stderr`, `exit_code` and `outputs/` into `results_dir`; idempotent. Blocks: for a thread.

    The streams are those of the log in the execution's `folder`; an unknown exit code is an empty file. Raises
    `PolicyDenied` if another folder stands there now, OSError (a full disk).
    """
    with reopen(results, field="$.results_dir") as granted:
        # A descriptor that may be listed and synced; `granted` is O_PATH.
        there = os.open(f"/proc/self/fd/{granted.fd}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.close(_make_outputs_folder(there))
        text = b"" if exit_code is None else b"%d\n" % exit_code
        with (
            _replacing(there, "stdout") as out,
            _replacing(there, "stderr") as err,
            _replacing(there, "exit_code") as code,
        ):
            _copy_log(folder, out, err)
            _write_all(code, text)
    finally:
        os.close(there)


def _grant(
    field: str, volume: StorageVolume, is_output: bool, request: ExecutionRequest, policy: Policy, refused: _Refused
) -> Volume:
    if volume.type == "tmpfs":
        return Volume(target=volume.target, field=field, read_only=False, size=_plain(volume.size))
    if volume.type == "volume":
        read_only = volume.read_only is not False
        return Volume(target=volume.target, field=field, read_only=read_only, name=volume.source)
    if is_output:
        granted = policy.make_folder(output_source(volume, request), field=f"{field}.source", refused=refused)
    else:
        granted = _open_input(volume, field, policy, refused)
    with granted:
        read_only = not is_output and volume.read_only is not False
        return Volume(target=volume.target, field=field, read_only=read_only, output=is_output, grant=granted.grant)


def _open_input(volume: StorageVolume, field: str, policy: Policy, refused: _Refused) -> Granted:
    write = volume.read_only is False
    return policy.open(volume.source or "", write=write, field=f"{field}.source", refused=refused)


def _open_stdin(path: str, policy: Policy, refused: _Refused) -> Granted:
    granted = policy.open(path, field="$.stdin_file", refused=refused)
    if granted.is_dir:
        granted.close()
        raise InvalidRequest(f"{path!r} is a folder", path="$.stdin_file", mend="Name a file")
    return granted


def _close(granted: Granted | None) -> None:
    if granted is not None:
        granted.close()


def _check_empty(results: Granted, path: str) -> None:
    fd = os.open(f"/proc/self/fd/{results.fd}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with os.scandir(fd) as entries:
            first = next(entries, None)
    finally:
        os.close(fd)
    if first is not None:
        raise InvalidRequest(
            f"{path!r} is not empty (it holds {first.name!r})",
            path="$.results_dir",
            mend="Name an empty or absent folder",
        )


def _check_grants_apart(mounts: list[Volume], results: Grant | None) -> None:
    """The same as `_check_sources_apart`, by what the paths turned out to be."""
    for mount in mounts:
        if results is None or not mount.output or mount.grant is None:
            continue
        if (mount.grant.device, mount.grant.inode) == (results.device, results.inode):
            raise tangled(f"{mount.field}.source")


def _make_outputs_folder(folder: int) -> int:
    with suppress(FileExistsError):
        os.mkdir("outputs", 0o755, dir_fd=folder)
    return os.open("outputs", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)


@contextmanager
def _replacing(folder: int, name: str) -> Iterator[int]:
    """A file made whole under another name and renamed, so that a repetition finds the old one or the new one."""
    temporary = f".{name}.tmp"
    with suppress(FileNotFoundError):
        os.unlink(temporary, dir_fd=folder)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(temporary, flags, 0o644, dir_fd=folder)
    try:
        yield fd
    finally:
        os.close(fd)
    os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)


def _copy_log(folder: Path, out: int, err: int) -> None:
    places = {STDOUT: out, STDERR: err}
    with LogReader(folder) as reader:
        while entries := reader.read(final=True).entries:
            for kind, _, data in entries:
                if kind in places:
                    _write_all(places[kind], data)


def _write_all(fd: int, data: bytes | memoryview) -> None:
    while data:
        data = data[os.write(fd, data) :]


def _plain(size: int | None) -> int | None:
    # A ByteSize is no JSON type.
    return None if size is None else int(size)
