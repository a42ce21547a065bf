"""The package is replaced while jobs of the older one run: their shims go on, and the newer package adopts them."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from pathlib import Path

import dms_executor

SCRIPT = "echo begin; while [ ! -e /gate/open ]; do sleep 0.1; done; echo end; exit 6"


def installed(site: Path, *, older: bool) -> None:
    """This package as a release in `site`, put there as installers do: a new folder beside, then in its place."""
    scratch = site.with_name("scratch")
    shutil.copytree(Path(dms_executor.__file__).parent, scratch / "dms_executor", symlinks=True)
    for name in ("dms-shim", "dms-init"):
        # Behind what the kernel loads: another file, the same program.
        with (scratch / "dms_executor" / "bin" / name).open("ab") as binary:
            binary.write(b"older" if older else b"newer")
    shutil.rmtree(site, ignore_errors=True)
    scratch.rename(site)


async def command(site: Path, state: Path, *words: str) -> tuple[int | None, bytes]:
    """`dms-executor` of what is installed in `site`."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "dms_executor.cli", "--state-dir", str(state), *words),
        env={**os.environ, "PYTHONPATH": str(site), "PYTHONASYNCIODEBUG": ""},
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await process.communicate()
    return process.returncode, out.strip()


async def test_jobs_of_an_older_shim_are_adopted(tmp_path: Path, rootfs: Path, oci_runtime: str) -> None:
    site, state, gate = tmp_path / "site", tmp_path / "state", tmp_path / "gate"
    gate.mkdir()
    await asyncio.to_thread(installed, site, older=True)
    for name in ("adopted", "cancelled"):
        code, _ = await command(
            *(site, state, "run", "-d", "--id", name, "-v", f"{gate}:/gate"),
            *(f"rootfs:{rootfs}", "sh", "-c", SCRIPT),
        )
        assert code == 0
    old = sorted(await asyncio.to_thread(shims, site))
    assert len(old) == 2
    await asyncio.to_thread(installed, site, older=False)
    assert await command(site, state, "ps", "-q") == (0, b"cancelled\nadopted")
    # The older programs run on, though their files are gone.
    assert [pid for pid in old if Path(f"/proc/{pid}/exe").is_symlink()] == old
    assert (await command(site, state, "cancel", "cancelled"))[0] == 0
    assert await command(site, state, "logs", "cancelled") == (0, b"begin")
    (gate / "open").touch()
    assert await command(site, state, "wait", "adopted") == (0, b"6")
    assert await command(site, state, "logs", "adopted") == (0, b"begin\nend")
    code, _ = await command(
        *(site, state, "run", "--rm", "-v", f"{gate}:/gate", f"rootfs:{rootfs}", "sh", "-c", SCRIPT),
    )
    assert code == 6, "the newer package does not run jobs of its own beside them"


def shims(site: Path) -> list[int]:
    found = []
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        try:
            program = os.readlink(f"/proc/{pid}/exe")
        except OSError:
            continue
        if program == f"{site}/dms_executor/bin/dms-shim":
            found.append(int(pid))
    return found
