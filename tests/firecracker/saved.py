"""The stand-in with snapshots: a machine is saved as what it was told, and one that has none yet goes on from that.

A file `fault` beside its socket is every answer's, with the status 400; where a file
`full` is, no memory can be written, and where a file `slow` is, half of it is until that goes. A saved machine may bear
a "fault" of its load:
"refused", "slow" or "gone".
"""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

from .stand_in import StandIn

__all__ = ["MEMORY", "Saving"]

MEMORY = bytes(1 << 20) + b"what the guest has" + bytes((1 << 20) - 18)
_SLOWLY = 1.0  # seconds
_LOOK = 0.01  # seconds


class Saving(StandIn):
    """`config`: of its machine, once there is one; `resumed`: one that was loaded runs. `cut`: one that runs again
    hears that its calls have ended.
    """

    def __init__(self, socket: Path, config: bytes | None) -> None:
        super().__init__(socket, config)
        self.config: dict[str, Any] | None = None if config is None else json.loads(config)
        self.resumed = asyncio.Event()
        self.cut = asyncio.Event()
        self._was_saved = False

    def _answer(self, method: str, path: str, content: Any) -> bytes:
        fault = Path("fault")
        self.refusal = (400, fault.read_bytes()) if fault.exists() else None
        return super()._answer(method, path, content)

    def _refused(self, method: str, path: str, content: Any) -> str:
        why = super()._refused(method, path, content)
        if path == "/snapshot/create" and not why:
            self._was_saved = True  # before anything is written
            if Path("full").exists():
                return "Create snapshot error: Cannot write memory file: No space left on device (os error 28)"
        if why or path != "/snapshot/load":
            return why
        memory, state = Path(content["mem_backend"]["backend_path"]), Path(content["snapshot_path"])
        assert {len(memory.parts), len(state.parts)} == {1}
        assert not memory.stat().st_mode & 0o022, "others write to what all clones have"
        try:
            saved = json.loads(state.read_bytes())
        except ValueError:
            return "Load snapshot error: Failed to get snapshot state from file"
        if memory.stat().st_size < len(MEMORY) or memory.read_bytes()[: len(MEMORY)] != MEMORY:
            return "Load snapshot error: Failed to restore from snapshot: memory"
        if saved.get("fault") == "refused":
            return 'Load snapshot error: the "machine" is on fire'
        return ""

    def _carried_out(self, method: str, path: str, content: Any) -> Any:
        if path == "/vm" and content["state"] == "Resumed" and self.state == "Running":
            os._exit(1)  # the real one of 1.16 lets nothing more through to its guest
        if path == "/snapshot/create":
            assert self.config is not None
            Path(content["snapshot_path"]).write_text(json.dumps(self.config))
            memory = Path(content["mem_file_path"])
            memory.write_bytes(MEMORY)
            os.truncate(memory, self.config["machine-config"]["mem_size_mib"] << 20)
        elif path == "/snapshot/load":
            # What it booted from is none of a clone's.
            self.config = json.loads(Path(content["snapshot_path"]).read_bytes())
            self.config.pop("boot-source", None)
            if self.config.get("fault") == "gone":
                os._exit(1)
        elif path.startswith("/drives/"):
            assert self.config is not None
            (drive,) = [drive for drive in self.config["drives"] if drive["drive_id"] == content["drive_id"]]
            drive["path_on_host"] = content["path_on_host"]
            drive["moved"] = True
        elif (
            path == "/vm" and content["state"] == "Resumed" and "boot-source" not in (self.config or {"boot-source": 0})
        ):
            config = self.config or {}
            assert "job" in config or all(drive.get("moved") for drive in config["drives"]), "the guest saw stand-ins"
            if self.resumed.is_set() and self._was_saved:
                self.cut.set()
            self.resumed.set()
        elif path == "/vm" and content["state"] == "Resumed" and self._was_saved:
            self.cut.set()
        return super()._carried_out(method, path, content)

    async def _delayed(self, method: str, path: str, content: Any) -> None:
        if path == "/snapshot/load" and b'"fault": "slow"' in Path(content["snapshot_path"]).read_bytes():
            await asyncio.sleep(_SLOWLY)
        if path == "/snapshot/create" and Path("slow").exists():
            Path(content["mem_file_path"]).write_bytes(MEMORY[: len(MEMORY) // 2])
            while Path("slow").exists():
                await asyncio.sleep(_LOOK)
