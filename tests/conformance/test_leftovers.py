"""What the end of a line calls left behind: processes that name an execution, also by their mounts alone."""

from __future__ import annotations

import os
import secrets
import subprocess
from pathlib import Path

import pytest

from dms_executor.conformance import ShellSubject

_WAITS = "echo up; read line"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root for a mount namespace")
def test_a_process_that_names_a_token_and_those_with_a_mount_that_does(tmp_path: Path) -> None:
    named, mounted, unseen = (secrets.token_hex(16) for _ in range(3))
    folder = tmp_path / mounted
    folder.mkdir()
    # The mount's namespace holds two processes, neither of which names it otherwise.
    mount = f'cd "$PLACE"; mount -t tmpfs none {mounted[:8]}*; unset PLACE; (read line) <&3 & {_WAITS}'
    environment = {**os.environ, "PLACE": str(tmp_path)}
    with (
        subprocess.Popen(["sh", "-c", _WAITS, named], **_PIPES) as first,
        subprocess.Popen(["unshare", "-m", "sh", "-c", f"exec 3<&0; {mount}"], env=environment, **_PIPES) as second,
    ):
        for process in (first, second):
            assert process.stdout is not None
            assert process.stdout.readline() == b"up\n"
        found = ShellSubject(image="").leftovers([named, mounted, unseen])
        for process in (first, second):
            assert process.stdin is not None
            process.stdin.close()
    assert [line for line in found if named in line] == [f"process {first.pid} of {named}"]
    assert len([line for line in found if mounted in line]) == 2
    assert not [line for line in found if unseen in line]
    assert ShellSubject(image="").leftovers([named, mounted]) == []


_PIPES = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
