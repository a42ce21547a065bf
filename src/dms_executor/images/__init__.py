"""Images: from a name to a root tree in the cache, with the image's configuration."""

from .config import ImageConfig, check_platform, command_of, host_architecture, stop_signal_of
from .reference import Reference, parse_reference
from .store import ImageStore, Unpacked

__all__ = [
    "ImageConfig",
    "ImageStore",
    "Reference",
    "Unpacked",
    "check_platform",
    "command_of",
    "host_architecture",
    "parse_reference",
    "stop_signal_of",
]
