"""Provision scripts where the engine's own ways show; the promises to callers are lines of the conformance suite."""

from __future__ import annotations

from pathlib import Path

from .conftest import Bench

_MARK = b"mark-of-a-script"


async def test_another_user_runs_them_too(bench: Bench) -> None:
    scripts = {"a": b'id -u; stat -c "%u %a" "${0%/*}" "$0"'}
    ran = await bench.run("id", "-u", provision_scripts=scripts, params={"user": "app"})
    assert (ran.stdout, ran.stderr) == ("1000\n1000 700\n1000 700\n1000\n", "")


async def test_a_read_only_root_takes_them(bench: Bench) -> None:
    ran = await bench.run("echo", "job", provision_scripts={"a": b"echo script"}, params={"read_only_root": True})
    assert ran.stdout == "script\njob\n"


async def test_no_file_of_the_engines_holds_them(bench: Bench) -> None:
    x, handle = await bench.started("sleep", "1000", provision_scripts={"a": b"sleep 1000 # " + _MARK})
    assert [path for path in x.folder.rglob("*") if _MARK in _content(path)] == []
    await bench.engine.stop(x, handle, 9, 0)
    await bench.ended(x, handle)


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes() if path.is_file() and not path.is_symlink() else b""
    except OSError:
        return b""  # the runtime was about to take it away


async def test_a_large_script_and_many(bench: Bench) -> None:
    scripts = {f"s{number:03}": b"echo -n ." for number in range(200)}
    scripts["t"] = b"#" * (1 << 20) + b"\necho end"
    ran = await bench.run("true", provision_scripts=scripts)
    assert ran.stdout == "." * 200 + "end\n"


async def test_what_a_script_leaves_running_ends_with_the_job(bench: Bench) -> None:
    script = b"sleep 4321 & until grep -q 4321 /proc/$!/cmdline; do :; done"  # forked is not yet executed
    ran = await bench.run("sh", "-c", "cat /proc/[0-9]*/cmdline", provision_scripts={"a": script})
    assert "sleep\x004321" in ran.stdout
