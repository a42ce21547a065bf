"""Every line of the conformance suite, over every engine of this package that can run here."""

from __future__ import annotations

from dms_executor.conformance.lines import *  # noqa: F403
