"""What an earlier caller left: undo what never ran, adopt what runs, finish what ended, destroy what nobody owns.

The fault of the world that it exists for: a caller can be killed between any two of its steps. Each row says which
step was the last to be committed; `survey` says what really exists.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import Mapping
from datetime import UTC, datetime

from . import faults
from .engine import Engine, Execution, Exit, Observed
from .errors import EngineUnreachable, ExecutorError
from .journal import Row, files
from .journal.clock import moment
from .lifecycle import Core, Live, adopt
from .lifecycle.finish import build_result, finish
from .types import RecoveryReport

__all__ = ["discard", "recover"]

_log = logging.getLogger(__name__)

BUDGET = 4.0
"""Seconds that `open` waits for executions that ended meanwhile; what is not done by then goes on in the background."""


async def recover(core: Core, *, follow: bool = True, thorough: bool = False) -> RecoveryReport:
    """One pass over what is not finished and has no living owner.

    `follow`: running executions are watched from here on; else only those that ended are finished. `thorough`: the
    engines are asked for leftovers, too, where no row is open.
    """
    async with core.recovering:
        return await _recover(core, follow, thorough)


async def _recover(core: Core, follow: bool, thorough: bool) -> RecoveryReport:
    report = RecoveryReport()
    names = {row.engine for row in await core.journal.open_rows()}
    if thorough:
        names |= set(core.opened())
    surveys: dict[str, Mapping[str, Observed] | None] = {}
    for name in sorted(names):
        surveys[name] = await _survey(core, name)
    # Survey first, rows after it: a token with no row in this later read belongs to nobody.
    rows = await core.journal.open_rows()
    ending = []
    for row in rows:
        if not await _take(core, row):
            continue
        await core.in_thread(files.sweep, core.journal.folder(row.token))
        task = await _settle(core, row, surveys.get(row.engine), report, follow)
        if task is not None:
            ending.append(task)
    known = {row.token for row in rows}
    for name, survey in surveys.items():
        await _destroy_leftovers(core, name, survey, known, report)
    if ending:
        await asyncio.wait(ending, timeout=BUDGET)
    await core.in_thread(core.owners.forget_dead)
    return report


async def _survey(core: Core, name: str) -> Mapping[str, Observed] | None:
    try:
        engine = await core.engine(name)
        return await asyncio.wait_for(engine.survey(), BUDGET)
    except (ExecutorError, TimeoutError) as error:
        _log.warning(
            "survey of %s: %s; its executions stay as they are", name, error or "no answer", extra={"engine": name}
        )
        return None


async def _take(core: Core, row: Row) -> bool:
    """Whether the row is this executor's to settle: nobody living has it, or it was left to whoever comes next."""
    if row.token in core.live:
        return False
    holder = row.owner
    if holder is not None and holder != core.owner and await core.in_thread(core.owners.alive, holder):
        dead_stopper = row.stopper is not None and not await core.in_thread(core.owners.alive, row.stopper)
        return dead_stopper and row.phase == "running"
    return await core.journal.take_over(row.token, holder)


async def _settle(
    core: Core, row: Row, survey: Mapping[str, Observed] | None, report: RecoveryReport, follow: bool
) -> asyncio.Task[None] | None:
    if row.phase == "removing":
        await discard(core, row)
        return None
    if row.phase == "finished":
        await _destroy(core, row)
        return None
    if survey is None:
        return await _stale(core, row, report, follow)
    engine = await core.engine(row.engine)
    seen = survey.get(row.token)
    x = core.known(row.request, row.token)
    if row.phase in ("accepted", "created") and (seen is None or seen.phase == "created" or row.phase == "accepted"):
        await _undo(core, row, engine, x)
        report.undone.append(row.id)
        return None
    if row.phase == "created":
        row = await _was_let_go(core, row, seen)
    if row.phase == "ended" or seen is None or seen.phase == "ended":
        end = row.exit or (seen.exit if seen is not None else None)
        (report.finished if seen is not None or row.exit else report.lost).append(row.id)
        return core.tasks.spawn(_finish(core, row, engine, end), f"finish {row.id}")
    report.adopted.append(row.id)
    if row.intent is not None and row.handle is not None:
        await engine.stop(x, row.handle, row.intent.signal, row.intent.grace)
        await core.journal.stop_in_hand(row.token)
    if follow:
        await adopt(core, row)
    else:
        await core.journal.release([row.token])
    return None


async def _destroy(core: Core, row: Row) -> None:
    """finished -> done: its caller died before it had cleaned up."""
    try:
        engine = await core.engine(row.engine)
        await engine.destroy(core.known(row.request, row.token), row.handle)
        await core.journal.done(row.token)
    except ExecutorError as error:
        _log.warning("%s; its leftovers go later", error, extra={"execution_id": row.id, "engine": row.engine})


async def _was_let_go(core: Core, row: Row, seen: Observed | None) -> Row:
    """The go was sent, its caller died before it could say so: say it now."""
    exit_ = seen.exit if seen is not None else None
    started = (exit_.started_at if exit_ is not None else None) or datetime.now(UTC)
    if exit_ is None or exit_.started_at is not None:
        await core.journal.running(row.token, started)
    return await core.journal.by_token(row.token) or row


async def _undo(core: Core, row: Row, engine: Engine, x: Execution) -> None:
    """Nothing of it ran: gone without a trace but its record."""
    await engine.destroy(x, row.handle)
    await core.in_thread(_forget_secrets, x)
    live = Live(x, engine)
    message = "the caller died before the job was let go"
    end = Exit(finished_at=datetime.now(UTC), error=message)
    await core.journal.finished(row.token, lambda intent: build_result(live, end, intent, [], ""))
    await core.journal.done(row.token)


async def _finish(core: Core, row: Row, engine: Engine, end: Exit | None) -> None:
    live = Live(core.known(row.request, row.token), engine, row.status)
    live.handle, live.intent, live.ended = row.handle, row.intent, True
    core.live[row.token] = live
    try:
        if end is None and row.handle is not None:
            end = await engine.watch(live.x, live.handle) if live.handle is not None else None
        now = datetime.now(UTC)
        lost = Exit(finished_at=now, lost="nothing of it is left", started_at=moment(row.started_at))
        await finish(core, live, end or lost)
    except ExecutorError as error:
        _log.warning("%s", error, extra={"execution_id": row.id, "engine": row.engine})
        live.conclude(None, error)
    finally:
        core.live.pop(row.token, None)
        live.done.set()
        if not live.finished.is_set():
            live.conclude(None, None)


async def _stale(core: Core, row: Row, report: RecoveryReport, follow: bool) -> asyncio.Task[None] | None:
    """The engine does not answer: what it runs is unknown, not lost. Followed, with backoff, until it does."""
    if row.phase == "running" and follow:
        try:
            (await adopt(core, row)).stale = True
        except ExecutorError as error:
            _log.warning("%s", error, extra={"execution_id": row.id, "engine": row.engine})
        report.adopted.append(row.id)
    else:
        await core.journal.release([row.token])
    return None


async def _destroy_leftovers(
    core: Core, name: str, survey: Mapping[str, Observed] | None, known: set[str], report: RecoveryReport
) -> None:
    for token in survey or {}:
        if token in known or token in core.live or await core.journal.by_token(token) is not None:
            continue
        engine = await core.engine(name)
        _log.warning("leftover %s is destroyed", token, extra={"engine": name})
        await engine.destroy(core.unknown(token), None)
        report.leftovers.append(token)


async def discard(core: Core, row: Row) -> None:
    """removing -> gone: what the engine has, the folder, then the row."""
    faults.point("removing_committed")
    try:
        engine = await core.engine(row.engine)
        await engine.destroy(core.known(row.request, row.token), row.handle)
    except EngineUnreachable as error:
        _log.warning(
            "%s; its leftovers go when it answers", error, extra={"execution_id": row.id, "engine": row.engine}
        )
    await core.in_thread(shutil.rmtree, core.journal.folder(row.token), True)
    faults.point("folder_removed")
    await core.journal.removed(row.token)


def _forget_secrets(x: Execution) -> None:
    (x.folder / files.SECRETS).unlink(missing_ok=True)
