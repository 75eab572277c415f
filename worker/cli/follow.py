"""Watching a run from the terminal until it ends. Ctrl-C detaches; the run goes on."""

import asyncio
import re
import time
from collections.abc import Awaitable, Callable

from sqlalchemy.ext.asyncio import AsyncSession

from db import runs
from db.engine import Database
from db.models import Run
from jobs.commands import lowtide
from jobs.failures import is_passing
from worker.cli import output, reports
from worker.process import Unreachable

LOOK_EVERY_S = 0.2


class NoSuchRun(Exception):
    """The ledger has no run of this id."""

    def __init__(self, run_id: str) -> None:
        super().__init__(f'there is no run "{run_id}"; `lowtide runs` lists the newest')


class Detached(Exception):
    """The operator has stopped watching."""


async def follow(database: Database, run_id: str, *, appears_within_s: float = 0, tells: bool = False) -> Run:
    """Show progress on stderr until the run has ended; return it. Raises NoSuchRun and Detached.

    Without a terminal there is no bar; with `tells`, a line says then what has become of the run, or why it waits.

    What was sent through the queue appears in the ledger when a worker has taken it.
    """
    lost = f"PostgreSQL at {database.address.server} does not answer any more; the run is safe in it"
    again = f"{lowtide('show', run_id, '--follow')} watches it again"
    try:
        await _appear(database, run_id, within_s=appears_within_s)
        return await _watch(database, run_id, tells=tells)
    except (NoSuchRun, Unreachable):
        raise
    except Exception as exc:
        if not is_passing(exc):
            raise
        raise Unreachable(f"{lost}: {again}") from exc
    except asyncio.CancelledError:
        raise Detached(f"run {run_id} goes on without you; {again}") from None


async def _watch(database: Database, run_id: str, *, tells: bool) -> Run:
    with output.progress() as bars:
        bar = bars.add_task(run_id, total=None, note="", visible=False)
        begun, told = time.monotonic(), Told()
        while True:
            run = await _standing(database, run_id)
            is_slow = time.monotonic() - begun > 1
            bars.update(
                bar,
                description=f"{run.job} {run.id}",
                completed=run.rows_done,
                total=run.rows_expected,
                note=run.wait_reason or run.state,
                visible=is_slow,
            )
            if run.state in runs.FINISHED:
                return await read(database, run_id)
            if tells and bars.disable and is_slow:
                told.of(run)
            await asyncio.sleep(LOOK_EVERY_S)


class Told:
    """Says how a run stands, when that is something else than before. Numbers alone, such as a lag, are no news."""

    def __init__(self) -> None:
        self._last = ""

    def of(self, run: Run) -> None:
        waits = "nobody has taken it yet" if run.started_at is None else "it waits for its next turn"
        why = reports.note(run) or (waits if run.state == "queued" else "")
        said = f"{run.state}: {why}" if why else run.state
        if (news := re.sub(r"[0-9]+", "", said)) != self._last:
            output.say(said)
            self._last = news


async def _appear(database: Database, run_id: str, *, within_s: float) -> None:
    deadline = time.monotonic() + within_s
    while True:
        try:
            await _standing(database, run_id)
        except NoSuchRun:
            if time.monotonic() >= deadline:
                raise
            await asyncio.sleep(LOOK_EVERY_S / 10)
        else:
            return


async def _standing(database: Database, run_id: str) -> Run:
    return await _found(database, run_id, look=runs.standing)


async def read(database: Database, run_id: str) -> Run:
    """The run with its payload. Raises NoSuchRun."""
    return await _found(database, run_id, look=runs.get)


async def _found(database: Database, run_id: str, *, look: Callable[[AsyncSession, str], Awaitable[Run | None]]) -> Run:
    async with database.sessions.begin() as session:
        run = await look(session, run_id)
    if run is None:
        raise NoSuchRun(run_id)
    return run
