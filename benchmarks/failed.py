"""The error of a contestant."""

from __future__ import annotations

__all__ = ["Failed"]


class Failed(Exception):
    """A piece of the work was not done rightly, so that its time says nothing."""
