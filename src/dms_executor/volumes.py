"""Inputs, outputs and `results_dir`: what a request says of them, what is granted, and what is brought home.

An output is bound live at its source, so that collecting is verifying: nothing is copied, and what the job wrote is
there however it ended. Independent of engines; each hands the granted descriptors to its own mounts.
"""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec

from .errors import InvalidRequest, NotSupported, ResourcesUnavailable
from .logs import LogReader
from .logs.format import STDERR, STDOUT
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

RESERVED_TARGETS = ("/proc", "/sys", "/dev")
_Refused = Iterable[str | Path]


class Volume(msgspec.Struct, frozen=True, kw_only=True):
    """One mount of the job. `grant` None: a tmpfs of `size` bytes (None: bounded by the job's memory only)."""

    target: str
    field: str
    read_only: bool
    output: bool = False
    grant: Grant | None = None
    size: int | None = None


class Volumes(msgspec.Struct, frozen=True, kw_only=True):
    """All that was granted, parents before what is mounted inside them. Part of `Prepared.state` as "volumes"."""

    mounts: list[Volume] = []
    results: Grant | None = None
    stdin: Grant | None = None


def check_volumes(request: ExecutionRequest, engine: str = "") -> None:
    """What can be judged from the request alone. Raises `InvalidRequest` or `NotSupported`."""
    targets: dict[str, str] = {}
    for field, volume, is_output in _named(request):
        _check_target(volume.target, f"{field}.target", targets)
        if volume.type == "volume":
            raise NotSupported(
                f"engine {engine} has no named volumes ({field}.type)",
                engine=engine,
                what=f"{field}.type",
                mend="Use type 'bind' with a host folder, or 'tmpfs'",
            )
        if volume.type == "tmpfs":
            _check_tmpfs(volume, field, is_output)
        else:
            _check_bind(volume, field, is_output, request)
    _check_sources_apart(request)


def verify_volumes(request: ExecutionRequest, policy: Policy, refused: _Refused) -> None:
    """Opens every host path that the request names, and makes nothing. Raises `InvalidRequest`, `PolicyDenied`."""
    for field, volume, is_output in _named(request):
        if volume.type != "bind":
            continue
        if is_output:
            _close(policy.find_folder(_output_source(volume, request), field=f"{field}.source", refused=refused))
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
        _grant(field, volume, is_output, request, policy, refused) for field, volume, is_output in _named(request)
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


def _named(request: ExecutionRequest) -> list[tuple[str, StorageVolume, bool]]:
    inputs = [(f"$.inputs[{index}]", volume, False) for index, volume in enumerate(request.inputs)]
    outputs = [(f"$.outputs[{index}]", volume, True) for index, volume in enumerate(request.outputs)]
    return inputs + outputs


def _check_target(target: str, field: str, seen: dict[str, str]) -> None:
    if "\0" in target or not target.startswith("/") or target.startswith("//"):
        raise InvalidRequest(f"{target!r} is no absolute path inside the job", path=field, mend="E.g. '/data'")
    if posixpath.normpath(target) != target or target == "/":
        raise InvalidRequest(
            f"{target!r} is not normalised, or the root itself",
            path=field,
            mend="Write it with no '.', '..', '//' or final '/'",
        )
    for reserved in RESERVED_TARGETS:
        if target == reserved or target.startswith(reserved + "/"):
            raise InvalidRequest(
                f"{target!r} lies in {reserved}, which is the job's own", path=field, mend="Use another"
            )
    if target in seen:
        raise InvalidRequest(f"{target!r} is the target of {seen[target]}, too", path=field, mend="Targets are unique")
    seen[target] = field


def _check_tmpfs(volume: StorageVolume, field: str, is_output: bool) -> None:
    if is_output:
        raise InvalidRequest("an output in a tmpfs is gone with the job", path=f"{field}.type", mend="Use type 'bind'")
    if volume.source is not None:
        raise InvalidRequest("a tmpfs has no source", path=f"{field}.source", mend="Leave the source out")
    if volume.size is not None and volume.size <= 0:
        raise InvalidRequest(f"{volume.size} is no size", path=f"{field}.size", mend="Use a size above 0")
    if volume.read_only:
        raise InvalidRequest("a read-only tmpfs stays empty", path=f"{field}.read_only", mend="Leave read_only out")


def _check_bind(volume: StorageVolume, field: str, is_output: bool, request: ExecutionRequest) -> None:
    if volume.size is not None:
        raise InvalidRequest("only a tmpfs has a size", path=f"{field}.size", mend="Use resources.disk for the root")
    if is_output and volume.read_only:
        raise InvalidRequest("an output is written", path=f"{field}.read_only", mend="Leave read_only out")
    if volume.source is not None:
        _check_host_path(volume.source, f"{field}.source")
    elif not is_output:
        raise InvalidRequest("an input has a source", path=f"{field}.source", mend="Name a file or folder of the host")
    elif request.results_dir is None:
        raise InvalidRequest(
            "an output needs a source or a results_dir", path=f"{field}.source", mend="Give one of the two"
        )


def _check_host_path(path: str, field: str) -> None:
    if "\0" in path or not path.startswith("/"):
        raise InvalidRequest(f"{path!r} is no absolute path", path=field, mend="Name an absolute path of the host")


def _check_sources_apart(request: ExecutionRequest) -> None:
    """No two outputs in one folder, and `results_dir` neither inside an output's source nor around it."""
    if request.results_dir is not None:
        _check_host_path(request.results_dir, "$.results_dir")
    if request.stdin_file is not None:
        _check_host_path(request.stdin_file, "$.stdin_file")
    seen: dict[str, str] = {}
    for field, volume, is_output in _named(request):
        if not is_output or volume.type != "bind":
            continue
        source = posixpath.normpath(_output_source(volume, request))
        if source in seen:
            raise InvalidRequest(
                f"{source!r} is the source of {seen[source]}, too", path=f"{field}.source", mend="Name another"
            )
        seen[source] = field
        if volume.source is None or request.results_dir is None:
            continue
        results = posixpath.normpath(request.results_dir)
        if _lies_in(source, results) or _lies_in(results, source):
            raise _tangled(f"{field}.source")


def _lies_in(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def _tangled(field: str) -> InvalidRequest:
    return InvalidRequest(
        "results_dir lies in the source of an output, or the reverse",
        path=field,
        mend="Leave the source out to have the output in results_dir/outputs, or keep the two apart",
    )


def _output_source(volume: StorageVolume, request: ExecutionRequest) -> str:
    if volume.source is not None:
        return volume.source
    return f"{request.results_dir}/outputs/{posixpath.basename(volume.target)}"


def _grant(
    field: str, volume: StorageVolume, is_output: bool, request: ExecutionRequest, policy: Policy, refused: _Refused
) -> Volume:
    if volume.type == "tmpfs":
        return Volume(target=volume.target, field=field, read_only=False, size=_plain(volume.size))
    if is_output:
        granted = policy.make_folder(_output_source(volume, request), field=f"{field}.source", refused=refused)
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
            raise _tangled(f"{mount.field}.source")


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
