"""The log of an execution: format, writer, reader, follower, retention. See docs/protocol.md, section 5."""

from .check import LogSummary, check_log
from .entry import Gap, LogEntry
from .inotify import APPEARED, CHANGED, Subscription, Wakeups, Watcher
from .reader import LogReader, read_tail
from .retention import drop_log, log_size
from .stream import LogStream
from .writer import LogWriter

__all__ = [
    "APPEARED",
    "CHANGED",
    "Gap",
    "LogEntry",
    "LogReader",
    "LogStream",
    "LogSummary",
    "LogWriter",
    "Subscription",
    "Wakeups",
    "Watcher",
    "check_log",
    "drop_log",
    "log_size",
    "read_tail",
]
