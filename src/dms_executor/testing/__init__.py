"""For users' own tests: an in-memory engine that needs no container.

from dms_executor.testing import MemorySpec

request = ExecutionRequest(job_id="j", execution_id="e", engine_spec=MemorySpec(script=["echo hi", "exit 3"]).build())
"""

from .engine import MemoryEngine
from .spec import MemorySettings, MemorySpec

__all__ = ["MemoryEngine", "MemorySettings", "MemorySpec"]
