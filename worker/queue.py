"""The queue worker: arq's polling and claiming, with everything that it does to a message replaced by ours.

arq picks due ids and marks them in progress; what an id means, the ledger says. So nothing that stands in Redis is
executed or believed, and losing all of it loses no accepted run.
"""

import asyncio
import contextlib
import json
import math
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import structlog
from arq.connections import ArqRedis
from arq.worker import Worker
from pydantic import ValidationError
from redis.exceptions import RedisError

from db import runs
from db.faults import Conflict, UnfitPayload, server_message
from jobs.failures import as_error, is_passing
from jobs.fields import invalid
from jobs.life import Again, Finished, Life, Parked, Unknown
from worker import wire
from worker.doorbells import Doorbells, Message, result_message

log = structlog.get_logger()

POLL = timedelta(milliseconds=50)
LONGEST_WAIT_FOR_REDIS_S = 5.0
WAIT_FOR_POSTGRESQL = timedelta(seconds=1)
BY_QUEUE = "queue"


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
        self.in_progress_timeout_s = life.lease.total_seconds()
        self.succeeded = 0
        self.failed = 0
        self.removed = 0
        self._faults = 0

    async def poll(self) -> None:
        """One look at the queue. Redis being away is waited for, however long that takes."""
        try:
            await self._poll_iteration()
            if self._faults:
                log.info("redis.back", faults=self._faults)
            self._faults = 0
        except (RedisError, OSError) as exc:
            if self._faults == 0:
                log.warning("redis.away", error=str(exc))
            self._faults += 1
            await asyncio.sleep(min(LONGEST_WAIT_FOR_REDIS_S, 0.1 * 2 ** min(self._faults, 10)))

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
        for task in late:
            task.cancel()
        if late:
            await asyncio.wait(late, timeout=1)

    async def start_jobs(self, job_ids: list[bytes]) -> None:
        """Only what can be a message of ours reaches arq, which fails on the rest."""
        await super().start_jobs(await self._screened([name for name in job_ids if not self._is_open(name)]))

    def _is_open(self, name: bytes) -> bool:
        return name.decode(errors="replace") in self.tasks

    async def _screened(self, names: list[bytes]) -> list[bytes]:
        if not names:
            return []
        messages = await self.doorbells.look_at(names)
        return [name for name, message in zip(names, messages, strict=True) if await self._screen(name, message)]

    async def _screen(self, name: bytes, message: Message) -> bool:
        """Whether arq may see it. The ledger being away is no reason to let it through, nor to stop."""
        try:
            return await self._passes(name, message)
        except RedisError:
            raise
        except Exception as exc:
            if not is_passing(exc):
                raise
            log.warning("postgresql.away", error=server_message(exc))
            await asyncio.sleep(WAIT_FOR_POSTGRESQL.total_seconds())
            return False

    async def _passes(self, name: bytes, message: Message) -> bool:
        run_id = name.decode(errors="replace")
        if not wire.is_name(run_id) or run_id.encode() != name:
            await self._discard(name, "the id is not 1 to 200 printable characters of UTF-8")
            return False
        if message.score is None:
            return False  # gone since it was listed
        if not (math.isfinite(message.score) and message.score > 0):
            why, head = f"the score {message.score} is no time in milliseconds since 1970", True
        elif message.kind not in {"string", "none"}:
            why, head = f"the payload's key is a {message.kind}, not a string", False
        elif message.size_bytes > wire.MOST_MESSAGE_BYTES:
            why, head = (
                f"the message has {message.size_bytes} bytes; a payload may have {wire.MOST_PAYLOAD_BYTES}",
                True,
            )
        else:
            return True
        readable = head and message.kind == "string"
        await self._reject(run_id, wire.reject(await self.doorbells.head(run_id) if readable else b"", why))
        return False

    async def run_job(self, job_id: str, score: int) -> None:  # noqa: ARG002 - arq's signature
        """Serve one message. Whatever goes wrong concerns this message alone."""
        try:
            async with self._kept_in_progress(job_id):
                await self._serve(job_id)
        except RedisError as exc:
            log.warning("redis.away", run=job_id, error=str(exc))  # the ledger knows where the run stands
        except Exception as exc:
            if not is_passing(exc):
                log.exception("message.failed", run=job_id)
            else:
                log.warning("postgresql.away", run=job_id, error=server_message(exc))
            with contextlib.suppress(RedisError, OSError):
                await self.doorbells.postpone(job_id, after=WAIT_FOR_POSTGRESQL)

    async def _serve(self, run_id: str) -> None:
        ending = await self.life.serve(run_id)
        if isinstance(ending, Unknown):
            if not await self._accepted(run_id):
                return
            ending = await self.life.serve(run_id)
        match ending:
            case Finished(glance, here):
                if here:
                    self.succeeded += glance.state == "succeeded"
                    self.failed += glance.state == "failed"
                await self.doorbells.remove(run_id, result=result_message(run_id, glance, queue=self.queue_name))
            case Again(after):
                await self.doorbells.ring_again(run_id, after=after)
            case Parked() | Unknown():
                await self.doorbells.remove(run_id)

    async def _accepted(self, run_id: str) -> bool:
        """Write the message into the ledger; False when there is nothing to serve after that."""
        raw = await self.doorbells.payload(run_id)
        if raw is None:
            await self._discard(run_id.encode(), "it has no payload, and the ledger does not know it")
            return False
        message = wire.decode(raw)
        if isinstance(message, wire.Rejection):
            await self._reject(run_id, message)
            return False
        if message.job == wire.DOORBELL:
            await self._discard(run_id.encode(), "it is a doorbell for a run that the ledger does not know")
            return False
        try:
            async with self.life.database.sessions.begin() as session:
                await runs.accept(
                    session, job=message.job, payload=message.payload, run_id=run_id, requested_by=BY_QUEUE
                )
        except Conflict:
            log.info("message.known", run=run_id)  # another worker was first, with another payload: the first stands
        except UnfitPayload as exc:
            await self._record(run_id, message.job, self._unfit(message, str(exc), raw))
            return False
        return True

    def _unfit(self, message: wire.Envelope, told: str, raw: bytes) -> dict[str, Any]:
        """Why jsonb can't hold the payload: the job's own words for its fields where it has some."""
        error: dict[str, Any] = {"type": "InvalidPayload", "message": f"the payload can't be stored: {told}"}
        job = self.life.jobs.get(message.job)
        if job is not None:
            try:
                job.payload.model_validate(json.loads(message.payload))  # JSON mode stops at a lone surrogate
            except ValidationError as exc:
                error = as_error(invalid(exc))
        return error | {"detail": error.get("detail", {}) | {"excerpt": wire.excerpt(raw)}}

    async def _reject(self, run_id: str, rejection: wire.Rejection) -> None:
        """A failed run where a job name can be read, unless the id is a run already: then the message is its bell."""
        async with self.life.database.sessions.begin() as session:
            known = await runs.glance(session, run_id) is not None
        if known:
            await self.doorbells.remove(run_id)
            await self.doorbells.ring([run_id])
        elif rejection.job is None:
            await self._discard(run_id.encode(), rejection.message)
        else:
            await self._record(run_id, rejection.job, rejection.as_error())

    async def _record(self, run_id: str, job: str, error: dict[str, Any]) -> None:
        async with self.life.database.sessions.begin() as session:
            await runs.reject(session, run_id=run_id, job=job, error=error, requested_by=BY_QUEUE)
            glance = await runs.glance(session, run_id)
        self.failed += 1
        log.warning("message.rejected", run=run_id, job=job, error=error["message"])
        result = None if glance is None else result_message(run_id, glance, queue=self.queue_name)
        await self.doorbells.remove(run_id, result=result)

    async def _discard(self, name: bytes, why: str) -> None:
        self.removed += 1
        log.warning("message.removed", id=name[:200].decode("ascii", "backslashreplace"), why=why)
        await self.doorbells.remove(name)

    @contextlib.asynccontextmanager
    async def _kept_in_progress(self, run_id: str) -> AsyncIterator[None]:
        """Keep arq's mark alive while we work, so that a short one shows when we are gone."""

        async def keep() -> None:
            while True:
                await asyncio.sleep(self.life.lease.total_seconds() / 3)
                with contextlib.suppress(RedisError, OSError):
                    await self.doorbells.keep_in_progress(run_id, lease=self.life.lease)

        keeping = asyncio.create_task(keep())
        try:
            yield
        finally:
            keeping.cancel()
            await asyncio.wait([keeping])
