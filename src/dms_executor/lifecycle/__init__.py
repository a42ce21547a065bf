"""From an accepted request to its result: the only place that decides a status and the only one that builds a result.

`start` brings an execution up, `follow` sees it through to `finish`, `stop` ends it early. `Core` is what they share.
"""

from .copying import copy_in, copy_out
from .core import Core
from .follow import adopt, wait, wait_for_status
from .live import Live
from .sessions import ExecSession, checked_command, open_session, run_command
from .snapshots import restore, snapshot
from .start import start
from .stop import cancel, pause, resume, send_signal, stats

__all__ = [
    "Core",
    "ExecSession",
    "Live",
    "adopt",
    "cancel",
    "checked_command",
    "copy_in",
    "copy_out",
    "open_session",
    "pause",
    "restore",
    "resume",
    "run_command",
    "send_signal",
    "snapshot",
    "start",
    "stats",
    "wait",
    "wait_for_status",
]
