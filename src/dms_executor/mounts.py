"""What can be said of a request's mounts from the request alone: targets, sources, names, and what excludes what."""

from __future__ import annotations

import posixpath
import re

from .errors import InvalidRequest, NotSupported
from .types import ExecutionRequest, StorageVolume

__all__ = ["RESERVED_TARGETS", "check_volumes", "named_mounts", "output_source", "tangled"]

RESERVED_TARGETS = ("/proc", "/sys", "/dev")
# https://github.com/moby/moby/blob/v20.10.24/daemon/names/names.go
_VOLUME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+", re.ASCII)


def check_volumes(request: ExecutionRequest, engine: str = "", *, named: bool = False) -> None:
    """What can be judged from the request alone. `named`: the engine has volumes of its own.

    Raises `InvalidRequest` or `NotSupported`.
    """
    targets: dict[str, str] = {}
    for field, volume, is_output in named_mounts(request):
        _check_target(volume.target, f"{field}.target", targets)
        if volume.type == "volume" and not named:
            raise NotSupported(
                f"engine {engine} has no named volumes ({field}.type)",
                engine=engine,
                what=f"{field}.type",
                mend="Use type 'bind' with a host folder, or 'tmpfs'",
            )
        if volume.type == "tmpfs":
            _check_tmpfs(volume, field, is_output)
        elif volume.type == "volume":
            _check_name(volume, field, is_output)
        else:
            _check_bind(volume, field, is_output, request)
    _check_sources_apart(request)


def named_mounts(request: ExecutionRequest) -> list[tuple[str, StorageVolume, bool]]:
    """Each with its field, and whether it is an output."""
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


def _check_name(volume: StorageVolume, field: str, is_output: bool) -> None:
    if is_output:
        raise InvalidRequest(
            "an output is a folder of the host",
            path=f"{field}.type",
            mend="Use an input with read_only False, or 'bind'",
        )
    if volume.size is not None:
        raise InvalidRequest("only a tmpfs has a size", path=f"{field}.size", mend="Leave the size out")
    if not _VOLUME.fullmatch(volume.source or ""):
        raise InvalidRequest(f"{volume.source!r} is no volume's name", path=f"{field}.source", mend="E.g. 'data'")


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
    for field, volume, is_output in named_mounts(request):
        if not is_output or volume.type != "bind":
            continue
        source = posixpath.normpath(output_source(volume, request))
        if source in seen:
            raise InvalidRequest(
                f"{source!r} is the source of {seen[source]}, too", path=f"{field}.source", mend="Name another"
            )
        seen[source] = field
        if volume.source is None or request.results_dir is None:
            continue
        results = posixpath.normpath(request.results_dir)
        if _lies_in(source, results) or _lies_in(results, source):
            raise tangled(f"{field}.source")


def _lies_in(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def tangled(field: str) -> InvalidRequest:
    """`field` and `results_dir` lie in one another."""
    return InvalidRequest(
        "results_dir lies in the source of an output, or the reverse",
        path=field,
        mend="Leave the source out to have the output in results_dir/outputs, or keep the two apart",
    )


def output_source(volume: StorageVolume, request: ExecutionRequest) -> str:
    """Where on the host it lies."""
    if volume.source is not None:
        return volume.source
    return f"{request.results_dir}/outputs/{posixpath.basename(volume.target)}"
