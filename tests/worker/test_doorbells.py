"""The queue's keys, on fakeredis: what each method writes and leaves alone."""

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import cast

import pytest_asyncio
from arq.connections import ArqRedis
from fakeredis import FakeAsyncRedis

from worker import wire
from worker.doorbells import Doorbells

QUEUE = "arq:queue"


@pytest_asyncio.fixture
async def doorbells() -> AsyncIterator[Doorbells]:
    async with FakeAsyncRedis() as redis:
        yield Doorbells(cast("ArqRedis", redis), QUEUE)


async def test_ringing_adds_a_message_without_work_and_leaves_one_that_waits(doorbells: Doorbells) -> None:
    await doorbells.redis.set("arq:job:waits", b"its own payload")
    await doorbells.redis.zadd(QUEUE, {"waits": 7})

    assert await doorbells.ring(["waits", "new"]) == 1

    assert await doorbells.redis.get("arq:job:waits") == b"its own payload"
    assert await doorbells.redis.zscore(QUEUE, "waits") == 7
    assert wire.decode(await doorbells.redis.get("arq:job:new")) == wire.Envelope(wire.DOORBELL, "{}")


async def test_ringing_again_lets_others_go_first_and_frees_the_run(doorbells: Doorbells) -> None:
    await doorbells.redis.zadd(QUEUE, {"r": 7, "other": 8})
    await doorbells.redis.set("arq:in-progress:r", b"1")
    await doorbells.ring_again("r", after=timedelta(0))

    assert await doorbells.redis.zrange(QUEUE, 0, -1) == [b"other", b"r"]
    assert await doorbells.redis.exists("arq:in-progress:r") == 0


async def test_postponing_keeps_the_payload_and_revives_nothing(doorbells: Doorbells) -> None:
    await doorbells.redis.set("arq:job:r", b"payload")
    await doorbells.redis.zadd(QUEUE, {"r": 7})
    await doorbells.postpone("r", after=timedelta(seconds=1))
    await doorbells.postpone("removed", after=timedelta(seconds=1))

    assert await doorbells.redis.get("arq:job:r") == b"payload"
    assert await doorbells.redis.zcard(QUEUE) == 1


async def test_removing_leaves_the_result_alone(doorbells: Doorbells) -> None:
    await doorbells.ring(["r"])
    await doorbells.remove("r", result=b"{}")
    assert [key async for key in doorbells.redis.scan_iter("*")] == [b"arq:result:r"]
