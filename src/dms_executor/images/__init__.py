"""Images: from a name to a root tree in the cache, with the image's configuration."""

from .config import ImageConfig, check_platform, host_architecture
from .reference import Reference, parse_reference
from .store import ImageStore, Unpacked

__all__ = [
    "ImageConfig",
    "ImageStore",
    "Reference",
    "Unpacked",
    "check_platform",
    "host_architecture",
    "parse_reference",
]
