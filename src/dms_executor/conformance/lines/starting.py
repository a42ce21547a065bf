"""Section 5: starts that fail, and what they leave."""

from __future__ import annotations

import errno

import pytest

from ...errors import ExecutionAlreadyFinished, ExecutorError, ImageNotFound, ImagePullFailed, StartFailed
from ...types import SpecConfig
from ..bench import Bench
from ..line import line
from ..shell import ShellSubject
from ..steps import Say


async def _fails(bench: Bench, *, expected: tuple[type[ExecutorError], ...], spec: SpecConfig) -> ExecutorError:
    request = bench.request(spec=spec)
    with pytest.raises(ExecutorError) as caught:
        await bench.executor.run(request)
    assert isinstance(caught.value, expected), repr(caught.value)
    assert str(caught.value)
    if await bench.info(request.execution_id) is not None:
        await _recorded(bench, request.execution_id, caught.value)
    return caught.value


async def _recorded(bench: Bench, execution_id: str, error: ExecutorError) -> None:
    """The failed record, and a follower that gets the same error."""
    result = await bench.executor.wait(execution_id)
    assert (result.status, result.reason, result.exit_code) == ("failed", "start_failed", None), result
    assert result.error_msg
    with pytest.raises(type(error)) as caught:
        await bench.output(execution_id, follow=True)
    assert (caught.value.message, caught.value.mend) == (error.message, error.mend)
    with pytest.raises(ExecutionAlreadyFinished):
        await bench.executor.start(bench.request(Say("again"), execution_id=execution_id))


@line("5", needs={"no_image"})
async def test_a_missing_image_is_told_apart(bench: Bench) -> None:
    from ...errors import InvalidRequest, PolicyDenied

    expected = (ImageNotFound, ImagePullFailed, InvalidRequest, PolicyDenied)
    await _fails(bench, expected=expected, spec=bench.subject.failing("image"))


@line("5", needs={"no_command"})
async def test_a_missing_command_fails_the_start_and_is_recorded(bench: Bench) -> None:
    error = await _fails(bench, expected=(StartFailed,), spec=bench.subject.failing("command"))
    assert error.execution_id is not None
    assert [info.status for info in await bench.executor.list()] == ["failed"]


@line("12", needs={"container", "shell"})
@pytest.mark.parametrize("command", ["/etc/passwd", "/tmp", "not-in-path", "/bin/sh/x"])
async def test_a_command_that_cannot_be_executed_fails_the_start(bench: Bench, command: str) -> None:
    error = await _fails(bench, expected=(StartFailed,), spec=_command(bench, command))
    assert error.execution_id is not None
    assert isinstance(error, StartFailed)
    assert error.errno in (errno.ENOENT, errno.EACCES, errno.ENOEXEC, errno.EISDIR, errno.ENOTDIR)


@line("12", needs={"container", "shell", "named_users"})
async def test_an_unknown_user_fails_the_start(bench: Bench) -> None:
    await _fails(bench, expected=(StartFailed,), spec=_command(bench, "true", user="nobody-knows"))


@line("12", needs={"container", "shell"})
async def test_a_missing_working_directory_is_made(bench: Bench) -> None:
    result = await bench.executor.run(bench.request(spec=_command(bench, "pwd", working_directory="/a/b")))
    assert result.stdout == b"/a/b\n", result


@line("5", needs={"container", "shell"})
async def test_a_plain_sleep_ends_by_term(bench: Bench) -> None:
    request = bench.request(spec=_command(bench, "sleep", "100000"))
    await bench.executor.start(request)
    await bench.executor.cancel(request.execution_id, grace=1000)
    result = await bench.executor.wait(request.execution_id)
    assert (result.status, result.exit_code, result.signal) == ("cancelled", 143, 15), result


@line("7", needs={"container", "shell", "cut_off"})
async def test_a_job_sees_no_network_and_no_host_process(bench: Bench) -> None:
    script = "ls /sys/class/net /proc/net/dev; cat /proc/net/dev | tail -n +3; ps | wc -l; id -u; echo $$"
    result = await bench.executor.run(bench.request(spec=_command(bench, "sh", "-c", script)))
    lines = result.stdout.decode().splitlines()
    interfaces = [text.strip().partition(":")[0] for text in lines if ":" in text and "/" not in text]
    assert interfaces == ["lo"], result.stdout.decode()
    assert int(lines[-3]) < 10, f"it sees {lines[-3]} processes"


@line("7", needs={"container", "shell"})
async def test_the_root_image_is_never_changed(bench: Bench) -> None:
    spec = _command(bench, "sh", "-c", "echo changed > /etc/passwd; rm -r /bin; echo new > /new")
    await bench.executor.run(bench.request(spec=spec))
    result = await bench.executor.run(
        bench.request(spec=_command(bench, "sh", "-c", "ls /bin/sh /new; cat /etc/passwd"))
    )
    assert b"/bin/sh" in result.stdout
    assert b"changed" not in result.stdout


@line("7", needs={"container", "shell"})
async def test_a_job_gains_no_privileges(bench: Bench) -> None:
    script = (
        "grep -E 'NoNewPrivs|CapEff|Seccomp:' /proc/self/status; grep -q NoNewPrivs /proc/self/status ||"
        " setpriv --dump 2>&- | sed -n 's/^no_new_privs: /NoNewPrivs:\t/p'"
    )
    result = await bench.executor.run(bench.request(spec=_command(bench, "sh", "-c", script)))
    fields = dict(text.split(":\t") for text in result.stdout.decode().splitlines())
    assert fields["NoNewPrivs"] == "1", result.stdout
    assert fields["Seccomp"] == "2", result.stdout
    # Docker's default set, https://docs.docker.com/engine/containers/run/#runtime-privilege-and-linux-capabilities
    assert int(fields["CapEff"], 16) & ~0xA80425FB == 0, f"capabilities beyond Docker's: {fields['CapEff']}"


def _command(bench: Bench, *argv: str, **params: object) -> SpecConfig:
    subject = bench.subject
    if not isinstance(subject, ShellSubject):
        pytest.fail("a subject with the traits container and shell is a ShellSubject")
    return subject.command(*argv, **params)
