"""`images ls`, `images pull`, `images rm`, `images prune`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from .session import Command, each, session_of
from .terminal import ProgressLine, emit, emit_json, table

if TYPE_CHECKING:
    from ..executor import Executor
    from ..types import ImageInfo

__all__ = ["images_command"]


class _Group(Command, click.Group):
    """`images` alone is `images ls`."""


@click.group(
    "images",
    cls=_Group,
    invoke_without_command=True,
    examples="""
    dms-executor images
    dms-executor images pull alpine:3.20
    dms-executor images rm alpine:3.20
    dms-executor images prune --older 7d --size 10GiB
    """,
)
@click.pass_context
def images_command(context: click.Context) -> int | None:
    """List the images that are here, bring some ahead of their first job, take others away."""
    return context.invoke(ls_command) if context.invoked_subcommand is None else None


@images_command.command("ls", cls=Command, examples="dms-executor images ls\ndms-executor images ls -q")
@click.option("-q", "--quiet", is_flag=True, help="Digests alone.")
@click.option("--no-trunc", is_flag=True, help="Whole digests.")
@click.pass_context
def ls_command(context: click.Context, quiet: bool = False, no_trunc: bool = False) -> int:
    """List the images that are here, the one used last first."""
    session = session_of(context)

    async def show(executor: Executor) -> int:
        found = await executor.images()
        if session.json or quiet:
            for info in found:
                emit(info.digest) if quiet else emit_json(info)
            return 0
        rows = [
            [
                *(reference or "<none>", info.digest if no_trunc else info.digest[:19], info.engine, _size(info.size)),
                *(f"{info.last_used_at.astimezone():%Y-%m-%d %H:%M}", "yes" if info.pinned else "no"),
            ]
            for info in found
            for reference in info.references or [""]
        ]
        table(["REFERENCE", "DIGEST", "ENGINE", "SIZE", "LAST USED", "IN USE"], rows)
        return 0

    return session.run(show)


@images_command.command(
    "pull",
    cls=Command,
    examples="dms-executor images pull alpine:3.20\ndms-executor images pull --engine oci registry.example:5000/tool",
)
@click.option("--engine", metavar="NAME", help="The engine that it is for. Default: the first usable one.")
@click.option("--platform", metavar="OS/ARCH", help="E.g. linux/amd64, which must be this machine's.")
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
@click.argument("names", nargs=-1, required=True, metavar="IMAGE...")
@click.pass_context
def pull_command(
    context: click.Context, names: tuple[str, ...], engine: str | None, platform: str | None, quiet: bool
) -> int:
    """Bring images of registries, as their names mean them now; prints their digests."""
    session = session_of(context)
    line = ProgressLine()

    async def whole(executor: Executor) -> int:
        async def pull(name: str) -> None:
            show = None if quiet or session.json else line.show
            try:
                info = await executor.pull_image(name, engine=engine, platform=platform, progress=show)
            finally:
                line.clear()
            emit_json(info) if session.json else emit(info.digest)

        return await each(names, session, pull)

    return session.run(whole)


@images_command.command(
    "rm", cls=Command, examples="dms-executor images rm alpine:3.20\ndms-executor images rm sha256:0a1b2c3d4e5f"
)
@click.argument("names", nargs=-1, required=True, metavar="IMAGE|DIGEST...")
@click.pass_context
def rm_command(context: click.Context, names: tuple[str, ...]) -> int:
    """Remove images. One that an execution uses stays."""
    session = session_of(context)

    async def whole(executor: Executor) -> int:
        async def remove(name: str) -> None:
            digest = _digest_of(name, await executor.images())
            freed = await executor.remove_image(digest)
            if session.json:
                emit_json({"digest": digest, "bytes_freed": freed})
            else:
                emit(f"{digest} removed, {_size(freed)} freed")

        return await each(names, session, remove)

    return session.run(whole)


@images_command.command(
    "prune", cls=Command, examples="dms-executor images prune\ndms-executor images prune --older 7d --size 10GiB"
)
@click.option("--older", metavar="DURATION", help="What nobody used for so long. Default: all that is not in use.")
@click.option("--size", metavar="SIZE", help="Then what was unused longest, until so much is left.")
@click.pass_context
def prune_command(context: click.Context, older: str | None, size: str | None) -> int:
    """Remove images that nobody uses."""
    from ..types import ByteSize
    from .durations import seconds

    age = 0.0 if older is None and size is None else float("inf") if older is None else seconds(older)
    most = int(ByteSize(size)) if size is not None else 1 << 62
    session = session_of(context)

    async def whole(executor: Executor) -> int:
        report = await executor.prune_images(unused_for=age, size=most)
        if session.json:
            emit_json({"images": report.images, "bytes_freed": report.bytes_freed})
        else:
            emit(f"{report.images} images removed, {_size(report.bytes_freed)} freed")
        return 0

    return session.run(whole)


def _digest_of(name: str, found: list[ImageInfo]) -> str:
    """Of a digest, of 4 or more of its digits, or of a reference. Raises `ImageNotFound`, `InvalidRequest`."""
    from ..errors import ImageNotFound, InvalidRequest
    from ..images import parse_reference

    digits = name.removeprefix("sha256:")
    by_digest = {info.digest for info in found if len(digits) >= 4 and info.digest[7:].startswith(digits)}
    if len(by_digest) > 1:
        raise InvalidRequest(f"{name!r} means {len(by_digest)} images", path="$.digest", mend="Give more of its digits")
    if by_digest:
        return by_digest.pop()
    try:
        reference = parse_reference(name)
    except InvalidRequest:
        reference = None
    whole = reference.path if reference is not None and not reference.is_local else name
    for info in found:
        if whole in info.references:
            return info.digest
    raise ImageNotFound(f"there is no image {name!r} here", mend="`dms-executor images ls` lists all")


def _size(count: int) -> str:
    size = float(count)
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"
