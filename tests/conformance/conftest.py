"""The engines of this package, as subjects of the conformance suite."""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import json
import os
import platform
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dms_executor import ExecutionRequest, Executor
from dms_executor.conformance import MemorySubject, ShellSubject, Subject
from dms_executor.conformance.bench import Bench
from dms_executor.conformance.line import SLOW
from dms_executor.microvm import kernel, warm
from tests import cluster, firecrackers, kernels
from tests.conformance.cluster_subject import ClusterSubject
from tests.conformance.daemon_subject import DaemonSubject
from tests.conformance.vm_subject import VmSubject
from tests.daemons import SESSIONS, slow_image
from tests.runsc import RUNTIMES, program

_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
ROOTS_CDI = Path("/etc/dms-executor-host/cdi")  # tests/host/inside makes it, for ordinary users
_COPY = ("vendor.test/copy=null", "/dev/copy")  # a device's name, and its path inside
_TYPE = "application/vnd.oci.image.{}.v1+json"


def _oci(runtime: str) -> ShellSubject:
    plain = ShellSubject(image="", engine_settings={"runtime": program(runtime)}, name=f"oci-{runtime}")
    # A spec counts only if it is root's.
    traits = plain.traits | {"slow_preparation"} | ({"device"} if os.geteuid() == 0 or ROOTS_CDI.is_dir() else set())
    return dataclasses.replace(plain, traits=traits - {"shared_kernel"} if runtime == "runsc" else traits)


_PLAIN = ShellSubject(image="")


def _daemons(engine: str, network: str) -> DaemonSubject:
    traits = (_PLAIN.traits | {"slow_preparation", "device"}) - {"supervisor"}
    return DaemonSubject(image=SESSIONS[engine].image, engine=engine, network=network, devices=_COPY, traits=traits)


def _clusters() -> list[ClusterSubject]:
    """Only where the tests are given a cluster."""
    if not cluster.KUBECONFIG:
        return []
    traits = (_PLAIN.traits | {"slow_preparation"}) - {"supervisor", "users", "named_users", "cut_off"}
    settings = {"kubeconfig": cluster.KUBECONFIG}
    return [ClusterSubject(image=cluster.IMAGE, engine="kubernetes", engine_settings=settings, traits=traits)]


def _firecrackers() -> list[VmSubject]:
    """Only where there is one, and a KVM that boots Linux."""
    return [] if firecrackers.missing() else [VmSubject(image="", engine="firecracker", traits=_QEMU.traits)]


_DOCKER, _PODMAN = _daemons("docker", "bridge"), _daemons("podman", "slirp4netns")


# The host counts a whole machine.
_QEMU = VmSubject(image="", engine="qemu", traits=(_PLAIN.traits | {"slow_preparation"}) - {"own_figures"})

# What happens in these sections is above the engine, or inside the job by our own helper: docker's subject goes through
# them on the same code. Podman's goes through one line of each, and through the rest where there is time (`.ci/full`).
_SPARED = ("capacity", "close", "identity", "listing", "paths", "requests", "retention", "waiting")
_SPARED += ("copies", "outputs", "processes", "provision", "trees")
# Each job in a microVM boots a kernel: this section, one line of these, and the rest where there is time.
_WHOLE = ("results",)
_ONE_OF = (
    "attached",
    "figures",
    "logs",
    "outputs",
    "powers",
    "provision",
    "recovery",
    "saving",
    "starting",
    "stopping",
    "timeouts",
)
_ALL = "DMS_EXECUTOR_ALL_LINES"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if os.environ.get(_ALL):
        return
    spared: dict[str, list[pytest.Item]] = {}
    for item in items:
        section = _section(item)
        if section:
            spared.setdefault(section, []).append(item)
    out = {item for section, lines in spared.items() for item in lines[not section.startswith("no ") :]}
    if out:
        config.hook.pytest_deselected(items=[item for item in items if item in out])
        items[:] = [item for item in items if item not in out]


def _section(item: pytest.Item) -> str:
    """The engine and the section of a line of which one is enough, or none; empty for another."""
    if not isinstance(item, pytest.Function) or not hasattr(item, "callspec"):
        return ""
    section, subject = item.function.__module__.rpartition(".")[2], item.callspec.params.get("subject")
    if isinstance(subject, VmSubject) and section not in _WHOLE:
        return f"{subject} {section}" if section in _ONE_OF else f"no {section}"
    return f"{subject} {section}" if subject is _PODMAN and section in _SPARED else ""


@pytest.fixture(
    params=[MemorySubject(), *map(_oci, RUNTIMES), _DOCKER, _PODMAN, _QEMU, *_firecrackers(), *_clusters()], ids=str
)
def subject(request: pytest.FixtureRequest) -> Subject:
    chosen: Subject = request.param
    if not isinstance(chosen, ShellSubject) or isinstance(chosen, ClusterSubject):
        return chosen
    rootfs: Path = request.getfixturevalue("rootfs")
    if isinstance(chosen, DaemonSubject):
        session = SESSIONS[chosen.engine]
        image, cdi = session.with_image(rootfs), [str(request.getfixturevalue("cdi_folder"))]
        settings = {"socket": str(session.daemon().socket), "cdi_folders": cdi}
        return dataclasses.replace(chosen, image=image, slow_image=slow_image(), engine_settings=settings)
    layout, unpacker = request.getfixturevalue("layout"), request.getfixturevalue("slow_unpacker")
    if isinstance(chosen, VmSubject):
        own = firecrackers.settings() if chosen.engine == "firecracker" else {}
        # No line's job needs more memory, and those that name a little have the same guest.
        own |= {"memory": 128, "warm_folder": str(request.getfixturevalue("warm_folder"))}
        settings = {**own, "kernel_image": str(request.getfixturevalue("kernel_image")), "umoci": str(unpacker)}
        booted = dataclasses.replace(
            chosen, image=f"rootfs:{rootfs}", slow_image=f"oci:{layout}", engine_settings=settings
        )
        request.getfixturevalue("snapshots")(booted)
        return booted
    return dataclasses.replace(
        chosen,
        image=f"rootfs:{rootfs}",
        slow_image=f"oci:{layout}",
        devices=_COPY,
        engine_settings={
            **chosen.engine_settings,
            "umoci": str(unpacker),
            "cdi_folders": [str(request.getfixturevalue("cdi_folder"))],
        },
    )


@pytest.fixture
def bench(subject: Subject, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Bench]:
    """A microVM's state folder begins with the images that a line before it made, as one that is in use has them."""
    bench = Bench(subject, tmp_path)
    if not isinstance(subject, VmSubject):
        yield bench
        return
    shared: Path = request.getfixturevalue("vm_caches")
    _link_new(shared, bench.state / "microvm")
    yield bench
    _link_new(bench.state / "microvm", shared)


def _link_new(source: Path, target: Path) -> None:
    for name in ("initrds", "roots"):
        folder = target / name
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for file in (source / name).glob("[0-9a-f]*[0-9a-f]"):
            if not (folder / file.name).exists():
                (folder / file.name).hardlink_to(file)


@pytest.fixture(scope="session")
def vm_caches(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of the same root and of the same initrd, for all lines."""
    return tmp_path_factory.mktemp("vm-caches")


@pytest.fixture(scope="session")
def kernel_image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Extracted once, and not for each line's state folder anew."""
    image = Path(kernels.installed()[0])
    found = asyncio.run(kernel.find(image, tmp_path_factory.mktemp("kernel")))
    if found.modules is None:
        return image
    folder = tmp_path_factory.mktemp("installation")
    (folder / "boot").mkdir()
    (folder / "lib/modules").mkdir(parents=True)
    (folder / "lib/modules" / found.release).symlink_to(found.modules)
    return found.path.rename(folder / "boot" / f"vmlinux-{found.release}")


@pytest.fixture(scope="session")
def warm_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Snapshots of booted guests, for all lines: else each line's state folder would have its own."""
    return tmp_path_factory.mktemp("warm")


@pytest.fixture(scope="session")
def snapshots(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[VmSubject], None]]:
    """Where all is slow a line's time ends before a snapshot is made, and its making with the line's executor. There
    the one that most lines need is made before them, and guests of other shapes boot.
    """
    made: set[str] = set()
    with pytest.MonkeyPatch.context() as patch:

        def prepared(subject: VmSubject) -> None:
            if SLOW <= 1 or subject.engine in made:
                return
            made.add(subject.engine)
            patch.setattr(warm, "_DEADLINE", 60.0 * SLOW)
            asyncio.run(_first(subject, tmp_path_factory.mktemp("first")))
            patch.setattr(warm, "_LATELY", float("inf"))
            patch.setattr(warm, "_MOST", 1)

        yield prepared


async def _first(subject: VmSubject, folder: Path) -> None:
    policy = subject.policy(folder)
    request = ExecutionRequest(
        job_id="job", execution_id="first", engine_spec=subject.spec(), prepare_timeout=120.0 * SLOW
    )
    async with Executor.open(folder / "state", policy=policy, settings=subject.settings()) as executor:
        await executor.run(request)


@pytest.fixture(scope="session")
def cdi_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One CDI spec, whose device is a copy of /dev/null."""
    if os.geteuid() != 0:
        return ROOTS_CDI
    folder = tmp_path_factory.mktemp("cdi")
    node = {"path": "/dev/copy", "type": "c", "major": 1, "minor": 3, "hostPath": "/dev/null"}
    devices = [{"name": "null", "containerEdits": {"deviceNodes": [node]}}]
    spec = folder / "copy.json"
    spec.write_text(json.dumps({"cdiVersion": "0.6.0", "kind": "vendor.test/copy", "devices": devices}))
    spec.chmod(0o644)
    return folder


@pytest.fixture(scope="session")
def slow_unpacker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What stands in for umoci where a preparation shall take an hour."""
    script = tmp_path_factory.mktemp("slow") / "umoci"
    script.write_text("#!/bin/sh\nexec sleep 3600\n")
    script.chmod(0o755)
    return script


@pytest.fixture(scope="session")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An OCI layout of one image without layers: https://github.com/opencontainers/image-spec/blob/main/image-layout.md"""
    folder = tmp_path_factory.mktemp("layout")
    architecture = _ARCHITECTURES.get(platform.machine(), platform.machine())
    config = {"architecture": architecture, "os": "linux", "rootfs": {"type": "layers", "diff_ids": []}, "config": {}}
    manifest = {
        "schemaVersion": 2,
        "mediaType": _TYPE.format("manifest"),
        "config": _blob(folder, config, "config"),
        "layers": [],
    }
    index = {"schemaVersion": 2, "manifests": [_blob(folder, manifest, "manifest")]}
    (folder / "index.json").write_text(json.dumps(index))
    (folder / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    return folder


def _blob(folder: Path, content: object, kind: str) -> dict[str, object]:
    data = json.dumps(content).encode()
    digest = hashlib.sha256(data).hexdigest()
    blobs = folder / "blobs" / "sha256"
    blobs.mkdir(parents=True, exist_ok=True)
    (blobs / digest).write_bytes(data)
    return {"mediaType": _TYPE.format(kind), "digest": f"sha256:{digest}", "size": len(data)}
