"""A daemon of a test's own, to be killed and started again, and an executor's settings over it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import dockerd
from tests.daemon import running


@pytest.fixture
def daemon(rootfs: Path, request: pytest.FixtureRequest) -> Iterator[dockerd.Dockerd]:
    """Its options are the fixture's parameter."""
    dockerd.SESSION.needed()
    options = getattr(request, "param", ())
    with tempfile.TemporaryDirectory(prefix="dockerd-", ignore_cleanup_errors=True) as folder:
        made = dockerd.Dockerd(Path(folder), "--bridge", "none", "--iptables=false", *options)
        with running(made) as daemon:
            daemon.take(rootfs, dockerd.SESSION.image)
            yield daemon
