"""The queue worker: arq's worker, with its polling, its claiming and what it does to a message replaced by ours.

Due ids are marked in progress, as arq marks them; what an id means, the ledger says. So nothing that stands in Redis is
executed or believed, and losing all of it loses no accepted run.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from datetime import timedelta
from functools import partial
from typing import Any

import structlog
from arq.connections import ArqRedis
from arq.worker import Worker
from redis.exceptions import RedisError, ResponseError

from db.faults import UnfitPayload, server_message
from db.refusals import Conflict
from jobs.background import alongside
from jobs.endings import Again, Ending, Finished, Parked, Unknown
from jobs.failures import as_error, is_passing
from jobs.life import Life
from worker import wire
from worker.doorbells import Doorbells, Message, result_message
from worker.inbox import Inbox

log = structlog.get_logger()

# Who rings as we do is heard at once. This is for foreign clients, which write the two keys and tell nobody: they wait
# half of it at the median, and a worker without work needs one command for it.
POLL = timedelta(milliseconds=75)
PAGE = 100
AHEAD = 20  # ids that are looked at beyond those in hand, so that the next places are filled in one round trip
ROLLBACK_WITHIN_S = 1.0
CANCELLATIONS = 2
LONGEST_WAIT_FOR_REDIS_S = 5.0
WAIT_FOR_POSTGRESQL = timedelta(seconds=1)


async def _never(ctx: dict[Any, Any]) -> None:
    """arq asks for a function; ours are looked up in the ledger."""


class QueueWorker(Worker):
    """One process's consumer. Counts how the runs that it served have ended."""

    def __init__(self, life: Life, redis: ArqRedis, *, queue: str, parallel_runs: int) -> None:
        super().__init__(
            [_never],
            redis_pool=redis,
            queue_name=queue,
            max_jobs=parallel_runs,
            handle_signals=False,
            poll_delay=POLL.total_seconds(),
            job_serializer=wire.serialize,
            job_deserializer=wire.decode,  # type: ignore[arg-type]  # never reached: run_job below reads messages
        )
        self.life = life
        self.doorbells = Doorbells(redis, queue)
        self.inbox = Inbox(life, self.doorbells)
        self.woken = asyncio.Event()  # there may be something to poll for
        self.succeeded = 0
        self._failed = 0
        self._faults = 0
        self._ahead: list[str] = []  # ids that were looked at and may be claimed
        self._looked_at = 0.0

    @property
    def failed(self) -> int:
        """Runs that ended as failed here, those among them that were rejected at the door."""
        return self._failed + self.inbox.rejected

    @property
    def removed(self) -> int:
        return self.inbox.removed

    async def poll(self) -> None:
        """One look at the queue. Redis being away is waited for, however long that takes."""
        try:
            await self._poll_iteration()
        except (RedisError, OSError) as exc:
            if await self._set_aside(exc):
                return
            if self._faults == 0:
                log.warning("redis.away", error=str(exc))
            self._faults += 1
            await asyncio.sleep(min(LONGEST_WAIT_FOR_REDIS_S, 0.1 * 2 ** min(self._faults, 10)))
        else:
            if self._faults:
                log.info("redis.back", faults=self._faults)
            self._faults = 0

    async def _set_aside(self, error: Exception) -> bool:
        """Whether the queue's key was in the way, being no queue, and no longer is."""
        if not isinstance(error, ResponseError):
            return False
        with contextlib.suppress(RedisError):
            if aside := await self.doorbells.set_aside_what_is_no_queue():
                log.error("queue.set_aside", queue=self.queue_name, now=aside)
                return True
        return False

    async def _poll_iteration(self) -> None:
        """In place of arq's: as many ids as there are free places, and on past those that others work on."""
        for name, task in list(self.tasks.items()):
            if task.done():
                del self.tasks[name]
        if self._looked_at < time.monotonic() - POLL.total_seconds():
            self._ahead = []
        await self._claim_from(self._ahead)
        start, most = 0, AHEAD + len(self.tasks)
        while self._free_places and self.allow_pick_jobs and not self.life.stopping.is_set():
            page = await self.doorbells.due(start=start, most=most)
            await self.start_jobs(page)
            if len(page) < most:
                break
            start, most = start + len(page), PAGE
        await self.heart_beat()

    @property
    def _free_places(self) -> int:
        return self.max_jobs - sum(not task.done() for task in self.tasks.values())

    @property
    def idle(self) -> bool:
        return not any(not task.done() for task in self.tasks.values())

    async def drain(self, *, within: timedelta) -> None:
        """Let open runs reach the end of their batch; what takes longer is cancelled, which rolls it back."""
        self.allow_pick_jobs = False
        open_runs = [task for task in self.tasks.values() if not task.done()]
        if not open_runs:
            return
        _, late = await asyncio.wait(open_runs, timeout=within.total_seconds())
        for _ in range(CANCELLATIONS):  # one may be lost, see jobs/background.py
            for task in late:
                task.cancel()
            if late:
                _, late = await asyncio.wait(late, timeout=ROLLBACK_WITHIN_S / CANCELLATIONS)

    async def start_jobs(self, job_ids: list[bytes]) -> None:
        """Start what can be a message of ours and nobody works on, as far as places are free.

        What is left over is tried first at the next poll: to claim it takes one round trip, and looks again.
        """
        names = await self._screened([name for name in job_ids if not self._is_open(name)])
        self._ahead, self._looked_at = [name.decode() for name in names], time.monotonic()
        await self._claim_from(self._ahead)

    async def _claim_from(self, run_ids: list[str]) -> None:
        while run_ids and (free := self._free_places) and self.allow_pick_jobs and not self.life.stopping.is_set():
            wanted = run_ids[:free]
            del run_ids[:free]
            for run_id in await self.doorbells.claim(wanted, lease=self.life.lease):
                self.tasks[run_id] = task = asyncio.create_task(self.run_job(run_id))
                task.add_done_callback(lambda _: self.woken.set())  # a place is free

    def _is_open(self, name: bytes) -> bool:
        return name.decode(errors="replace") in self.tasks

    async def _screened(self, names: list[bytes]) -> list[bytes]:
        if not names:
            return []
        messages, passed = await self.doorbells.look_at(names), []
        for name, message in zip(names, messages, strict=True):
            verdict = await self._may_pass(name, message)
            if verdict is None:
                break  # PostgreSQL is away: what comes after would wait for it as long again
            if verdict:
                passed.append(name)
        return passed

    async def _may_pass(self, name: bytes, message: Message) -> bool | None:
        """The inbox's word; None where the ledger could not be asked, after a while."""
        try:
            return await self.inbox.passes(name, message)
        except RedisError:
            raise
        except Exception as exc:
            if is_passing(exc):
                log.warning("postgresql.away", error=server_message(exc))
            else:
                log.error("message.failed", id=wire.excerpt(name), **as_error(exc))  # noqa: TRY400 - as below
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.life.stopping.wait(), WAIT_FOR_POSTGRESQL.total_seconds())
            return None if is_passing(exc) else False

    async def run_job(self, job_id: str, score: int = 0) -> None:  # noqa: ARG002 - arq's signature
        """Serve one message. Whatever goes wrong concerns this message alone."""
        try:
            async with self._kept_in_progress(job_id):
                await self._serve(job_id)
        except asyncio.CancelledError:  # shutting down: let another worker have it at once
            with contextlib.suppress(RedisError, OSError):
                await asyncio.shield(self.doorbells.postpone(job_id, after=timedelta(0)))
            raise
        except RedisError as exc:
            log.warning("redis.away", run=job_id, error=str(exc))  # the ledger knows where the run stands
        except Exception as exc:
            if not is_passing(exc):
                log.error("message.failed", run=job_id, **as_error(exc))  # noqa: TRY400 - as_error has the frames
            else:
                log.warning("postgresql.away", run=job_id, error=server_message(exc))
            with contextlib.suppress(RedisError, OSError):
                await self.doorbells.postpone(job_id, after=WAIT_FOR_POSTGRESQL)

    async def _serve(self, run_id: str) -> None:
        message = await self.inbox.read(run_id)
        ending = await self._served(run_id, message)
        if isinstance(ending, Unknown):
            await self.inbox.turn_away(run_id, message)
            return
        match ending:
            case Finished(glance, here):
                if here:
                    self.succeeded += glance.state == "succeeded"
                    self._failed += glance.state == "failed"
                await self.doorbells.remove(run_id, result=result_message(run_id, glance, queue=self.doorbells.queue))
            case Again(after):
                await self.doorbells.ring_again(run_id, after=after)
            case Parked():
                await self.doorbells.remove(run_id)

    async def _served(self, run_id: str, message: wire.Envelope | wire.Rejection | None) -> Ending:
        """Accepted and claimed in one transaction where the message has a payload; else it is a bell."""
        if isinstance(message, wire.Envelope) and message.job != wire.DOORBELL:
            with contextlib.suppress(Conflict, UnfitPayload):
                return await self.life.serve(run_id, first=partial(self.inbox.accept, run_id, message))
        return await self.life.serve(run_id)

    @contextlib.asynccontextmanager
    async def _kept_in_progress(self, run_id: str) -> AsyncIterator[None]:
        """Keep arq's mark alive while we work, so that a short one shows when we are gone."""

        async def keep() -> None:
            while True:
                await asyncio.sleep(self.life.lease.total_seconds() / 3)
                with contextlib.suppress(RedisError, OSError):
                    await self.doorbells.keep_in_progress(run_id, lease=self.life.lease)

        async with alongside(keep()):
            yield
