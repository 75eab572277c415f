"""The keys that arq keeps in Redis for a run, and what is done with them."""

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from arq.connections import ArqRedis
from arq.constants import in_progress_key_prefix, job_key_prefix, result_key_prefix, retry_key_prefix
from redis.exceptions import RedisError

from db.runs import Glance
from worker import redis_url, wire
from worker.wakeup import WakingRedis, channel

# A doorbell lives as long as it may have to wait, and a day; the ledger rings again where one was lost.
LIFETIME = timedelta(days=1)
NO_EXPIRY = -1  # what PTTL says of a key without an end
LONGEST_PROGRESS_MS = 600_000  # the longest lease that the settings take
MOST_SURFACED = 1000
RESULT_LIFETIME = timedelta(hours=1)


def connect(url: str, *, queue: str, most_connections: int = 20) -> ArqRedis:
    """A client that survives a restart of the server. Nothing is opened yet; the first command does."""
    return WakingRedis(redis_url.pool(url, most_connections=most_connections), queue=queue)


@dataclass(frozen=True)
class Message:
    """What stands in Redis under a due id, before anything of it is believed."""

    score: float | None
    kind: str  # the type of the payload's key; "none" where there is none
    size_bytes: int
    in_progress: bool  # somebody works on it
    stuck: bool  # a mark of progress that has no end, or a far one, is not ours


class Doorbells:
    """The queue's keys. Every method is one round trip."""

    def __init__(self, redis: ArqRedis, queue: str) -> None:
        self.redis = redis
        self.queue = queue

    async def ring(self, run_ids: Sequence[str]) -> int:
        """Ring for runs that have no doorbell; return for how many that was. Messages that wait are left alone."""
        now = _now_ms()
        async with self.redis.pipeline(transaction=False) as pipe:
            for run_id in run_ids:
                pipe.set(job_key_prefix + run_id, wire.doorbell(now), nx=True, px=LIFETIME)
                pipe.zadd(self.queue, {run_id: now}, lt=True)  # a far one must not hold back what is due
            pipe.publish(channel(self.queue), b"")
            added = await pipe.execute(raise_on_error=False)
        for answer in added:
            if isinstance(answer, RedisError):  # of each command its own: those before it stand
                raise answer
        return sum(answer == 1 for answer in added[1:-1:2])

    async def ring_again(self, run_id: str, *, after: timedelta) -> None:
        """The run stands in the ledger and is owed another slice: score it anew, and let others go first."""
        now = _now_ms()
        async with self.redis.pipeline(transaction=True) as pipe:
            pipe.zadd(self.queue, {run_id: now + _ms(after)})
            pipe.set(job_key_prefix + run_id, wire.doorbell(now), px=LIFETIME + after)
            pipe.delete(in_progress_key_prefix + run_id, retry_key_prefix + run_id)
            pipe.publish(channel(self.queue), b"")
            await pipe.execute()

    async def postpone(self, run_id: str, *, after: timedelta) -> None:
        """Try the same message later; it may be all that there is of the run."""
        async with self.redis.pipeline(transaction=True) as pipe:
            pipe.zadd(self.queue, {run_id: _now_ms() + _ms(after)}, xx=True)
            pipe.delete(in_progress_key_prefix + run_id, retry_key_prefix + run_id)
            await pipe.execute()

    async def remove(self, run_id: str | bytes, *, result: bytes | None = None) -> None:
        """The message has done its work. `result` is what arq's `Job.result()` reads, for an hour."""
        name = run_id.encode() if isinstance(run_id, str) else run_id
        async with self.redis.pipeline(transaction=True) as pipe:
            pipe.zrem(self.queue, name)
            for prefix in (job_key_prefix, in_progress_key_prefix, retry_key_prefix):
                pipe.delete(prefix.encode() + name)
            if result is not None:
                pipe.set(result_key_prefix.encode() + name, result, px=RESULT_LIFETIME)
            await pipe.execute()

    async def claim(self, run_ids: Sequence[str], *, lease: timedelta) -> list[str]:
        """Mark as in progress what is still due and nobody works on, and return that.

        The mark says whose it is, so that a command which is sent again after a lost connection finds its own.
        """
        mark = secrets.token_hex(8).encode()
        async with self.redis.pipeline(transaction=True) as pipe:
            for run_id in run_ids:
                pipe.set(in_progress_key_prefix + run_id, mark, nx=True, px=lease)
                pipe.get(in_progress_key_prefix + run_id)
                pipe.zscore(self.queue, run_id)
            answers = await pipe.execute(raise_on_error=False)
        now = _now_ms()
        marked = [
            (run_id, isinstance(score, float) and score <= now)
            for run_id, marked_by, score in zip(run_ids, answers[1::3], answers[2::3], strict=True)
            if marked_by == mark
        ]
        if gone := [in_progress_key_prefix + run_id for run_id, due in marked if not due]:
            await self.redis.delete(*gone)
        return [run_id for run_id, due in marked if due]

    async def keep_in_progress(self, run_id: str, *, lease: timedelta) -> None:
        await self.redis.pexpire(in_progress_key_prefix + run_id, lease)

    async def due(self, *, start: int, most: int) -> list[bytes]:
        """Ids that are due now, the longest due first, from the `start`-th on."""
        ids: list[bytes] = await self.redis.zrangebyscore(self.queue, "-inf", _now_ms(), start=start, num=most)
        return ids

    async def look_at(self, ids: Sequence[bytes]) -> list[Message]:
        """What stands under these ids. No payload is fetched."""
        async with self.redis.pipeline(transaction=False) as pipe:
            for name in ids:
                pipe.zscore(self.queue, name)
                pipe.type(job_key_prefix.encode() + name)
                pipe.strlen(job_key_prefix.encode() + name)
                pipe.pttl(in_progress_key_prefix.encode() + name)
            answers = await pipe.execute(raise_on_error=False)
        return [_message(*answers[n : n + 4]) for n in range(0, len(answers), 4)]

    async def forget_progress(self, name: bytes) -> None:
        """Drop a mark of progress that is not arq's."""
        await self.redis.delete(in_progress_key_prefix.encode() + name)

    async def head(self, run_id: str) -> bytes:
        """The first bytes of a message that is too large to be read."""
        first: bytes = await self.redis.getrange(job_key_prefix + run_id, 0, wire.HEAD_BYTES - 1)
        return first

    async def payload(self, run_id: str) -> bytes | None:
        raw: bytes | None = await self.redis.get(job_key_prefix + run_id)
        return raw

    async def set_aside_what_is_no_queue(self) -> str | None:
        """Rename the queue's key where it is no sorted set, and return its new name. Nothing is destroyed."""
        if await self.redis.type(self.queue) in {b"zset", b"none"}:
            return None
        aside = f"{self.queue}:no-queue:{_now_ms()}"
        await self.redis.rename(self.queue, aside)
        return aside

    async def surface_the_never_due(self) -> None:
        """Score what is due after the year 9999 with 0, where the inbox meets and judges it."""
        never: list[bytes] = await self.redis.zrangebyscore(
            self.queue, f"({wire.LATEST_MS}", "+inf", start=0, num=MOST_SURFACED
        )
        if never:
            await self.redis.zadd(self.queue, dict.fromkeys(never, 0), xx=True)

    async def any_due(self) -> bool:
        due: int = await self.redis.zcount(self.queue, "-inf", _now_ms())
        return due > 0


def result_message(run_id: str, glance: Glance, *, queue: str) -> bytes:
    """The run's end as arq's `Job.result()` expects it: the result, or the ledger's `error`."""
    now = _now_ms()
    succeeded = glance.state == "succeeded"
    said: dict[str, Any] | None = glance.result if succeeded else glance.error or {"type": glance.state}
    fields = {"t": 1, "f": glance.job, "a": [], "k": {}, "et": now, "st": now, "ft": now, "q": queue, "id": run_id}
    return wire.serialize(fields | {"s": succeeded, "r": said})


def _message(score: object, kind: object, size: object, ends_in_ms: object) -> Message:
    return Message(
        score=score if isinstance(score, float) else None,
        kind=kind.decode() if isinstance(kind, bytes) else "unknown",
        size_bytes=size if isinstance(size, int) else 0,  # STRLEN of another type is an error
        in_progress=isinstance(ends_in_ms, int) and 0 <= ends_in_ms <= LONGEST_PROGRESS_MS,
        stuck=isinstance(ends_in_ms, int) and (ends_in_ms == NO_EXPIRY or ends_in_ms > LONGEST_PROGRESS_MS),
    )


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _ms(length: timedelta) -> int:
    return length // timedelta(milliseconds=1)
