"""A user of its own number for each VM's monitor."""

from __future__ import annotations

import uuid

from dms_executor.microvm.launch import owner_of


def test_no_two_vms_have_one_user() -> None:
    """Of as many tokens as no machine has VMs; of 2**27 numbers some two may be the same by chance."""
    owners = {owner_of(uuid.uuid4().hex[:20]) for _ in range(20_000)}
    assert len(owners) > 19_980
    assert min(owners) > 1 << 20
