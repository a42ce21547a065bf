"""GPUs by PCI: found, meant by a request, given to one."""

from __future__ import annotations

import itertools

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dms_executor.devices.gpus import assign, discover, matching, names_of
from dms_executor.types import GPU

from .conftest import FakeHost


def test_they_are_found_with_their_own_nodes(fake_host: FakeHost) -> None:
    # Card numbers follow the order in which drivers came up, and not that of PCI.
    fake_host.add("amd", "0000:0a:00.0", "card2", "renderD128", name="Instinct")
    fake_host.add("intel", "0000:00:02.0", "card1", "renderD129")
    fake_host.add("amd", "0000:03:00.0", "card0", "renderD130")
    fake_host.add("nvidia", "0000:41:00.0", "nvidia1", kind="0x030200", name="Test GPU 40GB")
    found = {each.gpu.pci_address: each for each in discover()}
    assert list(found) == ["0000:00:02.0", "0000:03:00.0", "0000:0a:00.0", "0000:41:00.0"]
    assert found["0000:0a:00.0"].nodes == ["/dev/dri/card2", "/dev/dri/renderD128"]
    assert found["0000:0a:00.0"].shared == ["/dev/kfd"]
    assert found["0000:0a:00.0"].gpu == GPU(vendor="amd", index=1, name="Instinct", pci_address="0000:0a:00.0")
    assert found["0000:03:00.0"].gpu.index == 0
    assert (found["0000:00:02.0"].nodes, found["0000:00:02.0"].shared) == (
        ["/dev/dri/card1", "/dev/dri/renderD129"],
        [],
    )
    assert found["0000:41:00.0"].nodes == ["/dev/nvidia1"]
    assert found["0000:41:00.0"].gpu.name == "Test GPU 40GB"


def test_what_is_no_gpu_or_has_no_driver_is_none(fake_host: FakeHost) -> None:
    fake_host.add("0x1234", "0000:00:01.0", "card0")  # another vendor's
    fake_host.add("intel", "0000:00:1f.0", kind="0x060100")  # a bridge
    fake_host.add("amd", "0000:05:00.0")  # no driver, no nodes
    fake_host.add("nvidia", "0000:06:00.0", kind="0x030000")
    assert discover() == []


_GPUS = [
    GPU(vendor="nvidia", index=0, name="A", pci_address="0000:01:00.0"),
    GPU(vendor="nvidia", index=1, name="B", pci_address="0000:02:00.0"),
    GPU(vendor="amd", index=0, name="A", pci_address="0000:03:00.0"),
]


def test_all_that_a_request_says_must_be_true() -> None:
    def found(**said: object) -> list[str | None]:
        return [gpu.pci_address for gpu in matching(GPU(**said), _GPUS)]  # type: ignore[arg-type]

    assert found(vendor="nvidia") == ["0000:01:00.0", "0000:02:00.0"]
    assert found(vendor="nvidia", name="b") == ["0000:02:00.0"]
    assert found(vendor="nvidia", index=0, name="B") == []
    assert found(vendor="intel") == []
    for spelling in ("03:00.0", "00000000:03:00.0", "0000:03:00.0"):
        assert found(vendor="amd", pci_address=spelling) == ["0000:03:00.0"]


def test_one_that_says_less_makes_room_for_one_that_says_more() -> None:
    given_ = assign([GPU(vendor="nvidia"), GPU(vendor="nvidia", index=0)], _GPUS, ())
    assert given_ is not None
    assert [gpu.index for gpu in given_] == [1, 0]
    assert assign([GPU(vendor="nvidia")] * 3, _GPUS, ()) is None
    assert assign([GPU(vendor="nvidia")] * 2, _GPUS, ["0000:01:00.0"]) is None


_WANTED = st.builds(GPU, vendor=st.sampled_from(["nvidia", "amd"]), index=st.sampled_from([None, 0, 1]))


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # a slow machine is no failure
@given(wanted=st.lists(_WANTED, max_size=4), taken=st.sets(st.sampled_from([gpu.pci_address for gpu in _GPUS])))
def test_it_finds_an_assignment_exactly_where_there_is_one(wanted: list[GPU], taken: set[str]) -> None:
    free = [gpu for gpu in _GPUS if gpu.pci_address not in taken]
    possible = any(
        all(one in matching(each, free) for each, one in zip(wanted, chosen, strict=True))
        for chosen in itertools.permutations(free, len(wanted))
    )
    found = assign(wanted, _GPUS, taken)
    assert (found is not None) is possible
    if found is not None:
        assert len({gpu.pci_address for gpu in found}) == len(wanted)
        assert all(one in matching(each, free) for each, one in zip(wanted, found, strict=True))


def test_a_policy_may_name_it_by_number_or_address() -> None:
    assert names_of(_GPUS[2]) == ["amd.com/gpu=0", "amd.com/gpu=0000:03:00.0"]
