"""The keys that arq keeps in Redis for a run, and what is done with them."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

from arq.connections import ArqRedis
from arq.constants import in_progress_key_prefix, job_key_prefix, result_key_prefix, retry_key_prefix
from redis.asyncio import BlockingConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff

from db.runs import Glance
from worker import wire

# By the URL's scheme. Unless told to, redis-py takes any name in a server's certificate.
TRANSPORT: dict[str, dict[str, Any]] = {
    "redis": {"socket_keepalive": True},
    "rediss": {"socket_keepalive": True, "ssl_check_hostname": True},
    "unix": {},
}
# A doorbell lives as long as it may have to wait, and a day; the ledger rings again where one was lost.
LIFETIME = timedelta(days=1)
NO_EXPIRY = -1  # what PTTL says of a key without an end
LONGEST_PROGRESS_MS = 600_000  # the longest lease that the settings take
MOST_SURFACED = 1000
RESULT_LIFETIME = timedelta(hours=1)


def connect(url: str, *, queue: str, most_connections: int = 20) -> ArqRedis:
    """A pool that survives a restart of the server: three quick retries, short timeouts, keepalive.

    Nothing is opened yet; the first command does.
    """
    pool = BlockingConnectionPool.from_url(
        url,
        max_connections=most_connections,
        timeout=5,
        retry=Retry(ExponentialBackoff(cap=0.5, base=0.05), 3),
        retry_on_error=[ConnectionError, TimeoutError],
        socket_timeout=5,
        socket_connect_timeout=3,
        health_check_interval=30,
        **TRANSPORT[urlsplit(url).scheme],
    )
    return ArqRedis(pool, job_serializer=wire.serialize, default_queue_name=queue)


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
            added = await pipe.execute(raise_on_error=False)
        return sum(answer == 1 for answer in added[1::2])

    async def ring_again(self, run_id: str, *, after: timedelta) -> None:
        """The run stands in the ledger and is owed another slice: score it anew, and let others go first."""
        now = _now_ms()
        async with self.redis.pipeline(transaction=True) as pipe:
            pipe.zadd(self.queue, {run_id: now + _ms(after)})
            pipe.set(job_key_prefix + run_id, wire.doorbell(now), px=LIFETIME + after)
            pipe.delete(in_progress_key_prefix + run_id, retry_key_prefix + run_id)
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
