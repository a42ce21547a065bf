"""Section 5: inputs, outputs and `results_dir`, on every kind of end."""

from __future__ import annotations

import asyncio
import os
import stat

import pytest

from ...errors import InvalidRequest
from ...types import StorageVolume
from ..bench import Bench
from ..line import line
from ..steps import Exit, Forever, Say, Shell, Stdin

_OUT = StorageVolume(target="/out")


@line("5", needs={"volumes", "shell"})
async def test_results_dir_holds_streams_code_and_outputs(bench: Bench) -> None:
    results = bench.folder / "results"
    fields = {"results_dir": str(results), "outputs": [_OUT]}
    result = await bench.run(Say("o"), Say("e", "stderr"), Shell("echo data > /out/file"), Exit(3), **fields)
    assert sorted(os.listdir(results)) == ["exit_code", "outputs", "stderr", "stdout"]
    assert ((results / "stdout").read_bytes(), (results / "stderr").read_bytes()) == (b"o\n", b"e\n")
    assert (results / "exit_code").read_text().strip() == "3"
    assert (results / "outputs" / "out" / "file").read_text() == "data\n"
    assert [(output.target, output.path) for output in result.outputs] == [("/out", str(results / "outputs" / "out"))]


@line("5", needs={"volumes", "shell"})
@pytest.mark.parametrize("end", ["cancelled", "timed_out", "signaled"])
async def test_outputs_are_collected_however_it_ends(bench: Bench, end: str) -> None:
    results = bench.folder / "results"
    fields = {"results_dir": str(results), "outputs": [_OUT], "timeout": 1.0 if end == "timed_out" else None}
    execution_id = await bench.start(Shell("echo half > /out/file"), Say("ready"), Forever(), until="ready", **fields)
    if end == "cancelled":
        await bench.executor.cancel(execution_id)
    elif end == "signaled":
        await bench.executor.send_signal(execution_id, "KILL")
    result = await bench.executor.wait(execution_id)
    assert result.reason == end
    assert (results / "outputs" / "out" / "file").read_text() == "half\n"
    assert (results / "stdout").read_bytes() == b"ready\n"
    assert [output.target for output in result.outputs] == ["/out"]


@line("12", needs={"volumes", "shell"})
async def test_a_symlink_in_an_output_is_never_followed(bench: Bench) -> None:
    secret = bench.folder / "secret"
    secret.write_text("secret")
    results = bench.folder / "results"
    script = Shell(f"ln -s {secret} /out/link; rm -rf /out/dir; ln -s / /out/root")
    await bench.run(script, results_dir=str(results), outputs=[_OUT])
    left = results / "outputs" / "out"
    assert (left / "link").is_symlink()
    assert (left / "root").is_symlink()
    assert secret.read_text() == "secret"


@line("7", needs={"volumes", "shell"})
@pytest.mark.parametrize("end", ["exited", "signaled"])
async def test_no_file_that_a_job_left_gives_its_owners_rights(bench: Bench, end: str) -> None:
    data = bench.folder / "data"
    data.mkdir()
    writable = StorageVolume(source=str(data), target="/data", read_only=False)
    script = Shell(
        "for d in /out /data; do cd $d; mkdir deep; echo x >deep/file; chmod 6755 deep/file; echo x >plain;"
        " chmod 640 plain; test -u deep/file || exit 9; done"
    )
    fields = {"results_dir": str(bench.folder / "results"), "outputs": [_OUT], "inputs": [writable]}
    if end == "exited":
        assert (await bench.run(script, **fields)).exit_code == 0
    else:
        execution_id = await bench.start(script, Say("ready"), Forever(), until="ready", **fields)
        await bench.executor.send_signal(execution_id, "KILL")
        await bench.executor.wait(execution_id)
    for place in (bench.folder / "results" / "outputs" / "out", data):
        assert stat.S_IMODE((place / "deep" / "file").stat().st_mode) == 0o755
        assert stat.S_IMODE((place / "plain").stat().st_mode) == 0o640


@line("7", needs={"volumes", "shell"})
async def test_a_writable_input_alone_is_looked_through(bench: Bench) -> None:
    data = bench.folder / "data"
    data.mkdir()
    writable = StorageVolume(source=str(data), target="/data", read_only=False)
    await bench.run(Shell("echo x >/data/file; chmod 4755 /data/file"), inputs=[writable])
    assert stat.S_IMODE((data / "file").stat().st_mode) == 0o755


@line("12", needs={"volumes"})
async def test_a_results_dir_that_is_not_empty_is_refused(bench: Bench) -> None:
    results = bench.folder / "results"
    results.mkdir()
    (results / "mine").write_text("precious")
    with pytest.raises(InvalidRequest) as caught:
        await bench.run(results_dir=str(results))
    assert caught.value.path == "$.results_dir"
    assert os.listdir(results) == ["mine"]
    assert await bench.ids() == []


@line("12", needs={"volumes"})
async def test_results_dir_and_an_outputs_source_lie_apart(bench: Bench) -> None:
    inside = StorageVolume(source=str(bench.folder / "results" / "x"), target="/out")
    with pytest.raises(InvalidRequest):
        await bench.run(results_dir=str(bench.folder / "results"), outputs=[inside])
    assert not (bench.folder / "results").exists(), "a refused request made a folder"


@line("12", needs={"volumes"})
async def test_a_read_only_output_is_refused(bench: Bench) -> None:
    volume = StorageVolume(source=str(bench.folder / "out"), target="/out", read_only=True)
    with pytest.raises(InvalidRequest) as caught:
        await bench.run(outputs=[volume])
    assert "outputs[0]" in caught.value.path


@line("3", needs={"volumes"})
@pytest.mark.parametrize("target", ["relative", "/", "/proc/x", "/sys", "/dev/shm", "/a/../b", "/a//b", "/a\0b", ""])
async def test_a_target_that_is_none_is_refused(bench: Bench, target: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        await bench.run(inputs=[StorageVolume(source=str(bench.folder), target=target)])
    assert "inputs[0].target" in caught.value.path
    assert await bench.ids() == []


@line("3", needs={"volumes"})
async def test_targets_are_unique(bench: Bench) -> None:
    volume = StorageVolume(source=str(bench.folder), target="/data")
    with pytest.raises(InvalidRequest):
        await bench.run(inputs=[volume, volume])


@line("3", needs={"volumes", "shell"})
async def test_inputs_are_read_only_unless_said(bench: Bench) -> None:
    for name in ("ro", "rw"):
        (bench.folder / name).mkdir()
        (bench.folder / name / "file").write_text(name)
    inputs = [
        StorageVolume(source=str(bench.folder / "ro"), target="/ro"),
        StorageVolume(source=str(bench.folder / "rw"), target="/rw", read_only=False),
    ]
    result = await bench.run(
        Shell("cat /ro/file /rw/file; echo x > /rw/file; echo x > /ro/file || exit 7"), inputs=inputs
    )
    assert (result.exit_code, result.stdout) == (7, b"rorw"), result
    assert (bench.folder / "rw" / "file").read_text() == "x\n"
    assert (bench.folder / "ro" / "file").read_text() == "ro"
    info = await bench.executor.inspect(result.execution_id)
    assert info.loosened, "a writable input is not told by inspect"


@line("3", needs={"volumes", "shell"})
async def test_a_tmpfs_has_its_size(bench: Bench) -> None:
    from ...types import ByteSize

    volume = StorageVolume(type="tmpfs", target="/scratch", size=ByteSize("1MiB"))
    script = Shell(
        "dd if=/dev/zero of=/scratch/a bs=1k count=512 2>/dev/null && echo fits\n"
        "dd if=/dev/zero of=/scratch/b bs=1k count=2048 2>/dev/null || echo full"
    )
    assert (await bench.run(script, inputs=[volume])).stdout == b"fits\nfull\n"


@line("3", needs={"volumes"})
async def test_stdin_comes_from_a_file(bench: Bench) -> None:
    file = bench.folder / "input"
    data = os.urandom(100_000)
    await asyncio.to_thread(file.write_bytes, data)
    assert (await bench.run(Stdin(), stdin_file=str(file))).stdout == data
