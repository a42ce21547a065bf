"""`--device` and `--gpus`, in docker's habits."""

from __future__ import annotations

from typing import Any

import click
import pytest

from dms_executor.cli.gpus import gpus_of

from .conftest import Cli


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("1", [{"vendor": "nvidia"}]),
        ("2", [{"vendor": "nvidia"}] * 2),
        ("driver=amd", [{"vendor": "amd"}]),
        ("driver=intel,count=2", [{"vendor": "intel"}] * 2),
        ("device=3", [{"vendor": "nvidia", "index": 3}]),
        ('"device=0,2"', [{"vendor": "nvidia", "index": 0}, {"vendor": "nvidia", "index": 2}]),
        (
            'driver=amd,"device=0000:03:00.0,1"',
            [{"vendor": "amd", "pci_address": "0000:03:00.0"}, {"vendor": "amd", "index": 1}],
        ),
    ],
)
def test_which_gpus(text: str, wanted: list[dict[str, Any]]) -> None:
    assert gpus_of([text]) == wanted


@pytest.mark.parametrize("text", ["", "0", "many", "driver=other", "device=", "device=x", "count=1,device=0", "a=b"])
def test_what_is_no_choice(text: str) -> None:
    with pytest.raises(click.BadParameter, match="no choice of GPUs"):
        gpus_of([text])


def test_all_of_a_kind_are_a_device(cli: Cli) -> None:
    finished = cli("run", "--engine", "memory", "--gpus", "all", "exit 0")
    assert finished.code == 125
    assert "--device nvidia.com/gpu=all" in finished.err


def test_what_an_engine_has_not_is_refused(cli: Cli) -> None:
    for option in (("--device", "v.test/c=a"), ("--gpus", "driver=amd")):
        finished = cli("run", "--engine", "memory", *option, "exit 0")
        assert finished.code == 125
        assert "engine memory has no" in finished.err


def test_a_device_that_is_none_names_the_field(cli: Cli, root: str) -> None:
    finished = cli("run", "--device", "/dev/null", root, "true")
    assert finished.code == 125
    assert "$.devices[0]" in finished.err
