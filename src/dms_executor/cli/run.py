"""`run` and `start`."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from .codes import CANNOT_RUN, INTERRUPTED, of_error
from .durations import seconds
from .keys import DEFAULT, DetachKeys
from .session import Command, Session, completed, session_of
from .terminal import ProgressLine, emit, emit_json, end_line, report, silence

if TYPE_CHECKING:
    from ..types import ExecutionRequest
    from .lent import Lent

__all__ = ["guarded", "run_command", "start_command"]

F = TypeVar("F", bound=Callable[..., Any])
_REPEATED: dict[str, Any] = {"multiple": True}

_JOB_OPTIONS = [
    click.option(
        "--engine",
        metavar="NAME",
        shell_complete=completed("engines"),
        help="Engine; without it the first that is usable here.",
    ),
    click.option("-m", "--memory", metavar="SIZE", help="Memory limit: 256MiB, 1GB."),
    click.option("--cpus", type=float, metavar="N", help="Cores: 0.5 is half of one."),
    click.option(
        "--pids", "--pids-limit", "pids", type=int, metavar="N", help="At most so many processes and threads."
    ),
    click.option("--disk", metavar="SIZE", help="Size of the writable layer."),
    click.option("-v", "--volume", **_REPEATED, metavar="SRC:DST[:ro]", help="Mount a host path into the job."),
    click.option("--output", **_REPEATED, metavar="SRC:DST", help="Bring DST of the job home to SRC at its end."),
    click.option("--mount", **_REPEATED, metavar="K=V,...", help="As docker has it: type=bind,src=DIR,dst=DIR,ro."),
    click.option("--tmpfs", **_REPEATED, metavar="DST[:SIZE]", help="An empty folder in memory."),
    click.option("--results-dir", metavar="DIR", help="Leave stdout, stderr, exit_code and outputs here."),
    click.option("-e", "--env", **_REPEATED, metavar="K=V", help="A variable; K alone is taken from here."),
    click.option("--env-file", **_REPEATED, metavar="FILE", help="Variables, one K=V a line."),
    click.option("--secret-env", **_REPEATED, metavar="K[=V]", help="The same, never shown and never kept."),
    click.option("--provision", **_REPEATED, metavar="FILE", help="A script that runs before the job, in it."),
    click.option("--device", **_REPEATED, metavar="NAME", help="A CDI device: vendor.com/class=name."),
    click.option("--gpus", **_REPEATED, metavar="WHICH", help="GPUs of the job's own: 1, device=0, driver=amd."),
    click.option(
        "--network", "--net", "network", metavar="NAME", help="none (the default), user, host, or one of the engine's."
    ),
    click.option(
        "-p",
        "--publish",
        **_REPEATED,
        metavar="[IP:][PORT:]PORT[/udp]",
        help="Publish a port; network user if unsaid.",
    ),
    click.option("-w", "--workdir", metavar="DIR", help="Working directory inside."),
    click.option("-u", "--user", metavar="USER[:GROUP]", help="User inside, by name or number."),
    click.option("--hostname", metavar="NAME", help="Hostname inside."),
    click.option("--entrypoint", metavar="CMD", help="Instead of the image's; '' for none."),
    click.option("--read-only", is_flag=True, default=None, help="No writable layer."),
    click.option("--init/--no-init", default=None, help="An init of ours (the default), or the image's own."),
    click.option("--platform", metavar="OS/ARCH", help="Which one of the image's: linux/amd64."),
    click.option("--pull", type=click.Choice(["missing", "always", "never"]), help="When to ask the registry."),
    click.option("--timeout", type=seconds, help="Kill the job after so long (90, 10m, 2h); exit code 124."),
    click.option("--persist-logs", type=seconds, help="Keep the log so long after the end; 0: until it was seen."),
    click.option("--id", "--name", "id", metavar="ID", help="Execution id; made up without it."),
    click.option("--job-id", metavar="ID", help="Job id; the execution's without it."),
    click.option("-l", "--label", **_REPEATED, metavar="K=V", help="A label, for `ps --label`."),
    click.option("-f", "--file", metavar="FILE", help="Job file, YAML or JSON; options count more. -: stdin."),
    click.option("-i", "--interactive", is_flag=True, help="Give our stdin to the job; with -d: keep its stdin open."),
    click.option("-t", "--tty", is_flag=True, help="Run it on a terminal, which is ours; with -d: for `attach`."),
    click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="IMAGE [CMD...]"),
]
_PIPE_CLOSED = 128 + signal.SIGPIPE
_POSIX: dict[str, Any] = {"allow_interspersed_args": False}


def _job_options(function: F) -> F:
    for option in reversed(_JOB_OPTIONS):
        function = option(function)
    return function


@click.command(
    "run",
    cls=Command,
    context_settings=_POSIX,
    examples="""
    dms-executor run rootfs:/srv/busybox echo hi
    dms-executor run --memory 256MiB --cpus 0.5 --timeout 60 oci:/srv/image sh -c 'make test'
    dms-executor run --rm -v "$PWD:/src:ro" --output ./out:/out rootfs:/srv/root /src/build
    dms-executor run -d -f job.yaml
    """,
)
@click.option("-d", "--detach", is_flag=True, help="Leave it running and print its id.")
@click.option("--rm", "remove", is_flag=True, help="Remove the execution after its end.")
@click.option(
    "--detach-keys", default=DEFAULT, show_default=True, metavar="KEYS", help="What leaves the job's terminal."
)
@_job_options
@click.pass_context
def run_command(context: click.Context, /, detach: bool, remove: bool, detach_keys: str, **options: Any) -> int:
    """Execute a job and wait for its end.

    Its output comes here as it is written, and its exit code is ours: 124 after a timeout, 125 if it could not be
    made or its code is unknown, 126 and 127 if its command is not executable or not there. Ctrl-C cancels it, a
    second Ctrl-C kills it; with -it that key, like all others, is the job's own. ctrl-p ctrl-q leaves a job on a
    terminal, which goes on: `attach` comes back to it.
    """
    if detach and remove:
        raise click.UsageError("--rm needs somebody who waits for the end: leave out -d", context)
    session = session_of(context)
    if options["tty"] and not detach and session.json:
        raise click.UsageError("--json says nothing of a terminal's output: leave out -t, or use -d", context)
    return guarded(session, lambda: _run(session, options, detach=detach, remove=remove, detach_keys=detach_keys))


@click.command(
    "start",
    cls=Command,
    context_settings=_POSIX,
    examples="""
    id=$(dms-executor start rootfs:/srv/busybox sh -c 'sleep 60; echo done')
    dms-executor logs -f "$id"
    """,
)
@_job_options
@click.pass_context
def start_command(context: click.Context, /, **options: Any) -> int:
    """Begin a job, print its id and leave it running: `run -d`."""
    session = session_of(context)
    return guarded(session, lambda: _run(session, options, detach=True, remove=False, detach_keys=""))


def guarded(session: Session, work: Callable[[], int]) -> int:
    """An execution that could not be made has a code of its own."""
    from ..errors import ExecutorError

    try:
        return work()
    except ExecutorError as error:
        report(error, as_json=session.json)
        return of_error(error)
    except BrokenPipeError:
        silence()
        return _PIPE_CLOSED
    except KeyboardInterrupt:
        end_line()
        return INTERRUPTED
    except OSError as error:
        report(ExecutorError(str(error)), as_json=session.json, kind="OSError")
        return CANNOT_RUN


def _run(session: Session, options: dict[str, Any], *, detach: bool, remove: bool, detach_keys: str) -> int:
    from ..errors import NotSupported
    from .lent import Lent
    from .request import build_request
    from .stdin import is_file, with_stdin

    words = options.pop("words")
    lent = Lent(reads=options["interactive"], keys=DetachKeys(detach_keys))
    request = lent.sized(build_request(options, words), detach=detach)
    if request.stdin_open and lent.reads and is_file():
        request = with_stdin(request)  # its end is there already: nothing need be passed on
    try:
        return asyncio.run(_execute(session, request, lent, detach=detach, remove=remove))
    except NotSupported as error:
        if error.what != "$.stdin_open" or not lent.reads:
            raise
    # An engine that only takes all of it at once; it refused before anything was made.
    return asyncio.run(_execute(session, with_stdin(request), lent, detach=detach, remove=remove))


async def _execute(session: Session, request: ExecutionRequest, lent: Lent, *, detach: bool, remove: bool) -> int:
    from .foreground import Foreground, Interrupts

    progress = ProgressLine()
    with Interrupts() as interrupts:
        async with session.open() as executor:
            job = Foreground(executor, request, interrupts, lent, progress=progress, as_json=session.json)
            if not detach:
                return await job.run(remove=remove)
            code = await job.start()
    if code == 0:
        if session.json:
            emit_json({"execution_id": request.execution_id, "job_id": request.job_id})
        else:
            emit(request.execution_id)
    return code
