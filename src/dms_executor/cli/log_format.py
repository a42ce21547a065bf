"""The package's own log: a line of text, or one JSON object a line."""

from __future__ import annotations

import logging
from datetime import UTC, datetime

__all__ = ["JsonLines", "TextLines"]


class TextLines(logging.Formatter):
    """Level, message, and the execution that it is about."""

    def __init__(self) -> None:
        super().__init__("dms-executor: %(levelname)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:
        """The line of one record."""
        about = getattr(record, "execution_id", None)
        return super().formatMessage(record) + (f" [{about}]" if about else "")


class JsonLines(logging.Formatter):
    """time, level, logger, message, and where they are known execution_id and engine."""

    def format(self, record: logging.LogRecord) -> str:
        """One record."""
        import json

        fields: dict[str, str | None] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        for name in ("execution_id", "engine"):
            if hasattr(record, name):
                fields[name] = getattr(record, name)
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return json.dumps(fields, ensure_ascii=False)
