"""The wake-up: who rings tells waiting workers at once. A ring that is not told, or not heard, is found by the poll."""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

from arq.connections import ArqRedis
from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.client import Pipeline
from redis.exceptions import RedisError

from worker import wire

AGAIN_S = 0.5
# Between two looks whether the connection still lives.
LOOK_S = 15.0
# arq rounds the time of enqueueing to the next millisecond: a worker that looks at once would not find it due yet.
ROUNDING_S = 0.001


def channel(queue: str) -> str:
    """Where the workers of a queue listen."""
    return f"lowtide:wake:{queue}"


class WakingRedis(ArqRedis):
    """arq's client, whose `enqueue_job` also wakes a worker."""

    def __init__(self, pool: ConnectionPool, *, queue: str) -> None:
        super().__init__(pool, job_serializer=wire.serialize, default_queue_name=queue)

    def pipeline(self, transaction: bool = True, shard_hint: str | None = None) -> Pipeline:  # noqa: FBT001, FBT002 - redis-py's signature
        return _WakingPipeline(self.connection_pool, self.response_callbacks, transaction, shard_hint)


class _WakingPipeline(Pipeline):
    """Of all pipelines, arq's enqueue alone begins its transaction by `multi()`."""

    def zadd(self, name: Any, *args: Any, **options: Any) -> Any:  # noqa: ANN401 - redis-py's signature
        added = super().zadd(name, *args, **options)
        if self.explicit_transaction:
            self.publish(channel(name), b"")
        return added


async def listen(redis: Redis, queue: str, *, woken: Callable[[], None]) -> None:
    """Call `woken` once it listens and for each ring, until cancelled. A lost connection is made anew."""
    while True:
        with contextlib.suppress(RedisError, OSError):
            async with redis.pubsub() as subscriber:
                await subscriber.subscribe(channel(queue))
                while True:
                    if await subscriber.get_message(timeout=LOOK_S) is not None:
                        await asyncio.sleep(ROUNDING_S)
                        woken()
        await asyncio.sleep(AGAIN_S)
