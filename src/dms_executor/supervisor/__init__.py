"""The shim's client: start an execution under it, let go, stop, find again; helpers under a tether; keepers.

`docs/protocol.md` describes what travels. One process `dms-shim` keeps one execution and outlives whoever started it.
"""

from .spec import Bind, DeviceNode, Loop, Overlay, ShimSpec, UsageSource

__all__ = ["Bind", "DeviceNode", "Loop", "Overlay", "ShimSpec", "UsageSource"]
