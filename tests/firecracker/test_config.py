"""The file that Firecracker is launched with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from dms_executor.errors import InvalidRequest
from dms_executor.firecracker import config
from dms_executor.firecracker.config import Drive, Interface, Machine, document
from dms_executor.firecracker.machine import machine_of
from dms_executor.firecracker.spec import FirecrackerParams, checked_settings
from dms_executor.images import ImageConfig
from dms_executor.microvm.plan import Plan
from dms_executor.microvm.settings import Rate
from dms_executor.types import ByteSize

from .description import OURS, published

PLAIN = Machine(kernel=Path("/kernel"), vcpus=1, memory=128 << 20, boot_args="quiet")
ALL = Machine(
    kernel=Path("/kernel"),
    initrd=Path("/initrd"),
    vcpus=4,
    memory=(1 << 30) + 5,
    boot_args=config.boot_args(["8250.nr_uarts=0"], given="debug  loglevel=7"),
    drives=[
        Drive(name="root", path=Path("/root.img"), read_only=True, rate=Rate(bandwidth=ByteSize(10 << 20))),
        Drive(name="scratch", path=Path("/disk"), read_only=False, rate=Rate(bandwidth=ByteSize(1 << 20), ops=500)),
        Drive(name="kept", path=Path("/kept"), read_only=False, cache="Writeback"),
    ],
    interfaces=[
        Interface(name="eth0", tap="tap0", mac="06:00:ac:10:00:02", rate=Rate(ops=9)),
        Interface(name="b", tap="t"),
    ],
    vsock=Path("/vsock"),
    metadata_to=["eth0"],
    log=Path("/log"),
    track_dirty_pages=True,
)
OWN = msgspec.structs.replace(
    PLAIN,
    drives=[Drive(name="disk", path=Path("/disk"), read_only=False, root=True)],
    boot_args=config.boot_args(given="a"),
)


@pytest.mark.parametrize("machine", [PLAIN, ALL, OWN])
def test_firecracker_takes_every_field(machine: Machine) -> None:
    described = json.loads(document(machine))
    for known in (OURS, published() or OURS):
        assert known.faults(described, "FullVmConfiguration") == []
    assert {"boot-source", "drives"} <= described.keys()  # without these two the file is refused


def test_all_that_was_chosen_is_in_it() -> None:
    assert json.loads(document(ALL)) == {
        "boot-source": {
            "kernel_image_path": "/kernel",
            "initrd_path": "/initrd",
            "boot_args": "reboot=k panic=-1 pci=off quiet cryptomgr.notests 8250.nr_uarts=0 debug loglevel=7",
        },
        "machine-config": {"vcpu_count": 4, "mem_size_mib": 1024, "smt": False, "track_dirty_pages": True},
        "drives": [
            drive("root", "/root.img", True, rate_limiter={"bandwidth": bucket(10 << 20)}),
            drive("scratch", "/disk", False, rate_limiter={"bandwidth": bucket(1 << 20), "ops": bucket(500)}),
            drive("kept", "/kept", False) | {"cache_type": "Writeback"},
        ],
        "network-interfaces": [
            {
                "iface_id": "eth0",
                "host_dev_name": "tap0",
                "guest_mac": "06:00:ac:10:00:02",
                "rx_rate_limiter": {"ops": bucket(9)},
                "tx_rate_limiter": {"ops": bucket(9)},
            },
            {"iface_id": "b", "host_dev_name": "t"},
        ],
        "vsock": {"guest_cid": 3, "uds_path": "/vsock"},
        "mmds-config": {"version": "V2", "network_interfaces": ["eth0"]},
        "logger": {"log_path": "/log", "level": "Off"},
        "entropy": {},
    }


def drive(name: str, path: str, read_only: bool, **more: Any) -> dict[str, Any]:
    told = {"drive_id": name, "path_on_host": path, "is_read_only": read_only, "is_root_device": False}
    return {**told, "cache_type": "Unsafe", **more}


def bucket(size: int) -> dict[str, int]:
    return {"size": size, "refill_time": 1000}


@pytest.mark.parametrize(
    ("cpu", "host", "expected"),
    [
        (0.01, 8, 1),
        (1, 8, 1),
        (1.5, 8, 2),
        (3, 8, 4),
        (2, 1, 2),
        (100, 8, 32),
        (None, 8, 8),
        (None, 3, 2),
        (None, 1, 1),
    ],
)
def test_one_virtual_processor_or_an_even_number(cpu: float | None, host: int, expected: int) -> None:
    assert config.vcpus(cpu, host) == expected
    assert document(msgspec.structs.replace(PLAIN, vcpus=expected))


def test_memory_is_never_more_than_was_asked_for() -> None:
    assert config.memory_mib((64 << 20) + (1 << 20) - 1) == 64
    with pytest.raises(InvalidRequest, match="At least 32MiB") as raised:
        config.memory_mib((32 << 20) - 1)
    assert raised.value.path == "$.resources.memory"


@pytest.mark.parametrize("given", ["a" * 2000, "bell\a", "line\nbreak", "umläut"])
def test_arguments_that_no_kernel_takes(given: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        config.boot_args(given=given)
    assert raised.value.path == "$.engine_spec.params.kernel_args"
    assert raised.value.mend


@pytest.mark.parametrize(
    "wrong",
    [
        {"vcpus": 3},
        {"vcpus": 34},
        {"metadata_to": ["eth9"]},
        {"drives": [Drive(name="a/b", path=Path("/a"), read_only=True)]},
        {"drives": [Drive(name="a", path=Path("/a"), read_only=True)] * 2},
        {"drives": [Drive(name=name, path=Path("/a"), read_only=True, root=True) for name in "ab"]},
    ],
)
def test_what_firecracker_would_refuse_is_not_written(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        document(msgspec.structs.replace(PLAIN, **wrong))


def test_an_owners_rates_are_those_of_every_disk_and_of_the_network() -> None:
    plan = Plan(image=ImageConfig(), kernel="", initrd="")
    settings = checked_settings({"disk_rate": {"bandwidth": "8MiB"}, "network_rate": {"ops": 100}})
    machine = machine_of(plan, [False, True], True, FirecrackerParams(image="a"), settings)
    described = json.loads(document(machine))
    disk, ops = {"bandwidth": {"size": 8 << 20, "refill_time": 1000}}, {"ops": {"size": 100, "refill_time": 1000}}
    assert [drive["rate_limiter"] for drive in described["drives"]] == [disk, disk]
    assert described["network-interfaces"][0]["rx_rate_limiter"] == ops
    assert described["network-interfaces"][0]["tx_rate_limiter"] == ops


@pytest.mark.parametrize("field", ["disk_rate", "network_rate"])
def test_a_rate_of_nothing_is_refused(field: str) -> None:
    with pytest.raises(InvalidRequest, match="ops is 0") as caught:
        checked_settings({field: {"ops": 0}})
    assert caught.value.path == f"$.engines.firecracker.{field}.ops"
