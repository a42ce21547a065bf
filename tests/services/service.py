"""A service as docs/operations.md has it: opens the executor, starts a job once, writes down how the job ended.

usage: service.py STATE_DIR ROOTFS RUNTIME GATE
The job ends when somebody makes the file `open` in the folder GATE. `result` and `ready` (pid) appear there.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from pathlib import Path

from dms_executor import ByteSize, ExecutionRequest, Executor, Policy, Resources, Settings, StorageVolume
from dms_executor.oci import OciSpec

SCRIPT = "echo begin; while [ ! -e /gate/open ]; do sleep 0.1; done; echo end; exit 5"


def request(rootfs: str, gate: Path, execution_id: str = "job") -> ExecutionRequest:
    return ExecutionRequest(
        job_id="service",
        execution_id=execution_id,
        engine_spec=OciSpec(image=f"rootfs:{rootfs}", cmd=["sh", "-c", SCRIPT]).build(),
        resources=Resources(memory=ByteSize("64MiB"), pids=32),
        inputs=[StorageVolume(source=str(gate), target="/gate")],
    )


def notify() -> None:
    """https://www.freedesktop.org/software/systemd/man/latest/sd_notify.html"""
    path = os.environ.get("NOTIFY_SOCKET", "")
    if path:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as connection:
            connection.sendto(b"READY=1", path.replace("@", "\0", 1))


async def main() -> None:
    state, rootfs, runtime, gate = sys.argv[1], sys.argv[2], sys.argv[3], Path(sys.argv[4])
    settings = Settings(engines={"oci": {"runtime": runtime}})
    async with Executor.open(state, policy=Policy.trusted(), settings=settings) as executor:
        if not await executor.list():
            await executor.start(request(rootfs, gate))
        notify()
        result = await executor.wait("job")
        done = f"{result.exit_code} {result.reason} {result.stdout!r}\n"
        await asyncio.to_thread((gate / "result").write_text, done)


if __name__ == "__main__":
    asyncio.run(main())
