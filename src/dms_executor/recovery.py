"""What an earlier caller left: undo what never ran, adopt what runs, finish what ended, destroy what nobody owns.

The fault of the world that it exists for: a caller can be killed between any two of its steps. Each row says which
step was the last to be committed; `survey` says what really exists.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import shutil
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from functools import partial

import msgspec

from . import faults
from .engine import Engine, Execution, Exit, Observed
from .errors import (
    EngineUnavailable,
    EngineUnreachable,
    ExecutorClosed,
    ExecutorError,
    InvalidRequest,
    StateError,
)
from .journal import Row, files
from .journal.clock import moment
from .lifecycle import Core, Live, adopt
from .lifecycle.deadline import dismiss_keeper
from .lifecycle.finish import build_result, finish
from .lifecycle.insisting import insist
from .lifecycle.pull import pull
from .lifecycle.snapshots import tell_paused
from .types import RecoveryReport

__all__ = ["Again", "discard", "recover", "refresh"]

_log = logging.getLogger(__name__)

_PAUSES = (0.1, 0.5, 2.0, 10.0, 60.0)
BUDGET = 4.0
"""Seconds that `open` waits for executions that ended meanwhile; what is not done by then goes on in the background."""
_REMOVAL = 15.0
"""Likewise for what is taken away, which an engine may take its time for."""


async def recover(core: Core, *, follow: bool = True, thorough: bool = False) -> RecoveryReport:
    """One pass over what is not finished and has no living owner.

    `follow`: running executions are watched from here on; else only those that ended are finished. `thorough`: all
    engines that were ever used here are asked for leftovers, where no row is open, too.
    """
    async with core.recovering:
        return await _recover(core, follow, thorough)


async def refresh(core: Core) -> None:
    """Settles what a process that has died meanwhile owned, so that what is read is true."""
    for owner in await core.journal.open_owners():
        if owner == core.owner or (owner is None and core.unsettled):
            continue  # the latter are tried again in the background: a silent engine must not slow every look
        if owner is None or not await core.in_thread(core.owners.alive, owner):
            await recover(core, follow=core.changes.active)
            return


async def _recover(core: Core, follow: bool, thorough: bool) -> RecoveryReport:
    report = RecoveryReport()
    core.unsettled = False
    asked: dict[str, set[str]] = {}
    before = {row.token: row for row in await core.journal.open_rows()}
    for row in before.values():
        asked.setdefault(row.engine, set()).add(row.token)
    if thorough:
        for name in set(core.opened()) | await core.journal.engines():
            asked.setdefault(name, set())
    surveys: dict[str, Mapping[str, Observed] | None] = {}
    for name, tokens in sorted(asked.items()):
        surveys[name] = await _survey(core, name, None if thorough else tokens)
    # Survey first, rows after it: a token with no row in this later read belongs to nobody.
    rows = await core.journal.open_rows()
    ending: list[asyncio.Task[None]] = []
    leaving: list[asyncio.Task[None]] = []
    for row in rows:
        if row.token not in asked.get(row.engine, ()):
            # It began meanwhile, so that no survey tells of it: nobody may take it for lost. Who only looks asks
            # again with the next look.
            core.unsettled |= follow and await _nobody_has(core, row)
            continue
        live = core.live.get(row.token)
        if live is not None and live.unseen:
            # Of a row that has changed since the engine was asked, what it told may be older.
            await _see(core, live, row, surveys.get(row.engine) if row == before.get(row.token) else None)
        task = await _settled(core, row, surveys.get(row.engine), report, follow)
        if task is not None:
            (leaving if row.token in core.settling else ending).append(task)
    known = {row.token for row in rows}
    for name, survey in surveys.items():
        leaving += await _destroy_leftovers(core, name, survey, known, report)
    if leaving:
        await _raise_of(leaving, _REMOVAL)
    if ending:
        await asyncio.wait(ending, timeout=BUDGET)
    await core.in_thread(core.owners.forget_dead)
    if core.unsettled and follow:
        core.settle_soon()
    return report


async def _settled(
    core: Core, row: Row, survey: Mapping[str, Observed] | None, report: RecoveryReport, follow: bool
) -> asyncio.Task[None] | None:
    """One row. What keeps it from being settled now keeps neither the others nor the folder from anybody."""
    if not follow and _goes_on(row, survey):
        report.adopted.append(row.id)
        return None
    if not await _take(core, row):
        return None
    try:
        await core.in_thread(files.sweep, core.journal.folder(row.token))
        return await _settle(core, row, survey, report, follow)
    except (StateError, ExecutorClosed):
        raise
    except Exception as error:  # noqa: BLE001, an engine's own defect concerns its executions only
        await _unsettled(core, row, error)
        return None


async def _unsettled(core: Core, row: Row, error: Exception) -> None:
    where = {"execution_id": row.id, "engine": row.engine}
    _log.warning("not settled yet: %s", error, extra=where, exc_info=not isinstance(error, ExecutorError))
    core.unsettled = True
    await core.journal.release([row.token])


def _apart(core: Core, row: Row, work: Callable[[], Awaitable[None]]) -> asyncio.Task[None]:
    """What takes something away keeps neither the others nor the folder from anybody."""

    async def done() -> None:
        try:
            await work()
        except (StateError, ExecutorClosed):
            raise
        except Exception as error:  # noqa: BLE001, as above
            await _unsettled(core, row, error)
            core.settle_soon()
        finally:
            core.settling.discard(row.token)

    core.settling.add(row.token)
    return core.tasks.spawn(done(), f"settle {row.id}")


async def _raise_of(tasks: list[asyncio.Task[None]], seconds: float) -> None:
    """Waits that long for them. Raises what one of them has raised."""
    done, _ = await asyncio.wait(tasks, timeout=seconds)
    for task in done:
        if not task.cancelled() and (error := task.exception()) is not None:
            raise error


def _goes_on(row: Row, survey: Mapping[str, Observed] | None) -> bool:
    """Whether there is nothing to do for who only looks: it runs, and was left to whoever comes next."""
    seen = survey.get(row.token) if survey is not None else None
    left = row.phase == "running" and row.owner is None and row.intent is None
    return left and seen is not None and seen.phase != "ended"


async def _nobody_has(core: Core, row: Row) -> bool:
    if row.token in core.live or row.owner == core.owner:
        return False
    return row.owner is None or not await core.in_thread(core.owners.alive, row.owner)


async def _survey(core: Core, name: str, tokens: set[str] | None) -> Mapping[str, Observed] | None:
    """What exists of `tokens`, of all where None; None where the engine does not tell."""
    try:
        engine = await core.engine(name)
        surveying = engine.survey() if tokens is None else engine.survey_of(tokens)
        return await asyncio.wait_for(surveying, BUDGET)
    except (ExecutorError, TimeoutError) as error:
        said = str(error) or f"no answer in {BUDGET:g} s"  # a TimeoutError says nothing
        _log.warning("survey of %s: %s; its executions stay as they are", name, said, extra={"engine": name})
        return None


async def _take(core: Core, row: Row) -> bool:
    """Whether the row is this executor's to settle: nobody living has it, or it was left to whoever comes next."""
    holder = row.owner
    live = core.live.get(row.token)
    if row.token in core.settling:
        return False
    # One that is followed here, and that another process was about to finish, is left without anybody if that one dies.
    if live is not None and not (live.ended and holder not in (None, core.owner)):
        if row.intent is not None and row.phase == "running" and await _lacks_its_stopper(core, row):
            await core.journal.intend(row.token, row.intent)  # we are its stopper from here on
            insist(core, row.token, row.intent)
        return False
    if holder is not None and holder != core.owner and await core.in_thread(core.owners.alive, holder):
        return row.phase == "running" and await _lacks_its_stopper(core, row)
    return await core.journal.take_over(row.token, holder)


async def _lacks_its_stopper(core: Core, row: Row) -> bool:
    """Whether who was about to stop it is dead."""
    stopper = row.stopper
    return stopper not in (None, core.owner) and not await core.in_thread(core.owners.alive, stopper)


async def _settle(
    core: Core, row: Row, survey: Mapping[str, Observed] | None, report: RecoveryReport, follow: bool
) -> asyncio.Task[None] | None:
    if row.phase == "removing":
        return _apart(core, row, partial(discard, core, row))
    if row.phase == "finished":
        return _apart(core, row, partial(_destroy, core, row))
    if survey is None:
        return await _stale(core, row, report, follow)
    engine = await core.engine(row.engine)
    seen = survey.get(row.token)
    if row.phase in ("accepted", "created") and (seen is None or seen.phase == "created" or row.phase == "accepted"):
        return _apart(core, row, partial(_withdraw, core, row, seen, engine, report, follow))
    return await _go_on(core, row, seen, engine, report, follow)


async def _withdraw(
    core: Core, row: Row, seen: Observed | None, engine: Engine, report: RecoveryReport, follow: bool
) -> None:
    """One of which the last that is known is that nothing of it ran."""
    x = core.known(row.request, row.token)
    if row.phase == "accepted" or row.handle is None or await engine.withdraw(x, row.handle):
        await _undo(core, row, engine, x)
        report.undone.append(row.id)
        return
    # Its go was on its way while we looked.
    seen = seen and msgspec.structs.replace(seen, phase="running")
    finishing = await _go_on(core, row, seen, engine, report, follow)
    if finishing is not None:
        await asyncio.wait([finishing])


async def _go_on(
    core: Core, row: Row, seen: Observed | None, engine: Engine, report: RecoveryReport, follow: bool
) -> asyncio.Task[None] | None:
    x = core.known(row.request, row.token)
    if row.phase == "created":
        row = await _was_let_go(core, row, seen)
    if row.phase == "ended" or seen is None or seen.phase == "ended":
        end = row.exit or (seen.exit if seen is not None else None)
        (report.finished if seen is not None or row.exit else report.lost).append(row.id)
        return core.tasks.spawn(_finish(core, row, engine, end), f"finish {row.id}")
    report.adopted.append(row.id)
    if row.intent is not None and row.handle is not None:
        await engine.stop(x, row.handle, row.intent.signal, row.intent.grace)
        await core.journal.stop_in_hand(row.token, row.stopper)
    await tell_paused(core, row, seen, follow)
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
        core.unsettled = True


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
    live = Live(x, engine)
    await dismiss_keeper(core, live)
    message = "the job was never let go: its caller died before, or could not reach its engine"
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
        if not engine.keeps_log:
            await pull(core, live)
        now = datetime.now(UTC)
        lost = Exit(finished_at=now, lost="nothing of it is left", started_at=moment(row.started_at))
        await finish(core, live, end or lost)
        await dismiss_keeper(core, live)
    except ExecutorError as error:
        _log.warning("%s", error, extra={"execution_id": row.id, "engine": row.engine})
        live.conclude(None, error)
        core.unsettled = True
        core.settle_soon()
    finally:
        if core.live.get(row.token) is live:
            del core.live[row.token]
        live.done.set()
        if not live.finished.is_set():
            live.conclude(None, None)


async def _stale(core: Core, row: Row, report: RecoveryReport, follow: bool) -> asyncio.Task[None] | None:
    """The engine does not answer: what it runs is unknown, not lost. Followed, with backoff, until it does."""
    core.unsettled = True
    if row.phase == "running" and follow:
        try:
            live = await adopt(core, row)
            live.stale = live.unseen = True
        except ExecutorError as error:
            _log.warning("%s", error, extra={"execution_id": row.id, "engine": row.engine})
        report.adopted.append(row.id)
    else:
        await core.journal.release([row.token])
    return None


async def _see(core: Core, live: Live, row: Row, survey: Mapping[str, Observed] | None) -> None:
    """What its engine tells only now of one that was taken over unseen: paused, saved, or being saved meanwhile."""
    live.unseen = survey is None
    core.unsettled |= live.unseen
    if survey is not None and row.phase == "running" and (seen := survey.get(row.token)) is not None:
        await tell_paused(core, row, seen, True)


async def _destroy_leftovers(
    core: Core, name: str, survey: Mapping[str, Observed] | None, known: set[str], report: RecoveryReport
) -> list[asyncio.Task[None]]:
    tasks = []
    for token in survey or {}:
        if token in known or token in core.live or token in core.settling:
            continue
        if await core.journal.by_token(token) is None:
            core.settling.add(token)
            tasks.append(core.tasks.spawn(_destroy_leftover(core, name, token, report), f"leftover {token}"))
    return tasks


async def _destroy_leftover(core: Core, name: str, token: str, report: RecoveryReport) -> None:
    _log.warning("leftover %s is destroyed", token, extra={"engine": name})
    try:
        engine = await core.engine(name)
        await engine.destroy(core.unknown(token), None)
        report.leftovers.append(token)
    except ExecutorError as error:
        _log.warning("leftover %s: %s", token, error, extra={"engine": name})
    finally:
        core.settling.discard(token)


async def discard(core: Core, row: Row) -> None:
    """removing -> gone: what the engine has, the folder, then the row."""
    faults.point("removing_committed")
    try:
        engine = await core.engine(row.engine)
        await engine.destroy(core.known(row.request, row.token), row.handle)
    except (EngineUnreachable, EngineUnavailable, InvalidRequest) as error:
        # The engine is silent, or not even installed any more: the record goes all the same.
        _log.warning(
            "%s; its leftovers go when it answers", error, extra={"execution_id": row.id, "engine": row.engine}
        )
    await core.in_thread(shutil.rmtree, core.journal.folder(row.token), True)
    faults.point("folder_removed")
    await core.journal.removed(row.token)


class Again:
    """Recovery once more, a little later and with backoff, for as long as something could not be settled."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._task: asyncio.Task[None] | None = None

    def soon(self) -> None:
        """Asks for it; what is asked while one is under way is one and the same."""
        if not self._core.closing.is_set() and (self._task is None or self._task.done()):
            self._task = self._core.tasks.spawn(self._recover(), "recover again")

    async def _recover(self) -> None:
        for pause in itertools.chain(_PAUSES, itertools.repeat(_PAUSES[-1])):
            await asyncio.sleep(pause)
            try:
                await recover(self._core)
            except StateError as error:
                _log.warning("%s", error)
                continue
            if not self._core.unsettled and not self._core.settling:
                return
