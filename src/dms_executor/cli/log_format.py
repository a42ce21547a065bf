"""The package's own log: a line of text, or one JSON object a line."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import UTC, datetime

__all__ = ["EitherLines", "JsonLines", "TextLines"]


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


class EitherLines(logging.Formatter):
    """One of the two, chosen when a record comes."""

    def __init__(self, as_json: Callable[[], bool]) -> None:
        super().__init__()
        self._as_json = as_json
        self._json, self._text = JsonLines(), TextLines()

    def format(self, record: logging.LogRecord) -> str:
        """One record."""
        return (self._json if self._as_json() else self._text).format(record)
