"""How helper programs of the host are found and called."""

from __future__ import annotations

__all__ = ["ENVIRONMENT", "SEARCH_PATH"]

SEARCH_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
ENVIRONMENT = {"PATH": SEARCH_PATH, "LC_ALL": "C"}
