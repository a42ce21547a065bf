"""The `qemu` engine: microVMs by QEMU."""

from .engine import QemuEngine
from .spec import QemuParams, QemuSettings, QemuSpec

__all__ = ["QemuEngine", "QemuParams", "QemuSettings", "QemuSpec"]
