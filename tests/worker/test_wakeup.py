"""The wake-up: whoever rings is heard at once, also after the connection was lost."""

import asyncio
from datetime import timedelta

import pytest
from arq.connections import ArqRedis
from redis.asyncio.client import PubSub
from redis.exceptions import ConnectionError as RedisConnectionError

from jobs.background import alongside
from tests.eventually import eventually
from worker import wakeup
from worker.doorbells import Doorbells

QUEUE = "arq:queue"


@pytest.fixture
def woken() -> asyncio.Event:
    return asyncio.Event()


async def test_whoever_begins_to_listen_is_woken_for_what_came_before(redis: ArqRedis, woken: asyncio.Event) -> None:
    async with alongside(wakeup.listen(redis, QUEUE, woken=woken.set)):
        await asyncio.wait_for(woken.wait(), 5)


@pytest.mark.parametrize("way", ["enqueue", "ring", "ring again"])
async def test_every_ring_wakes(redis: ArqRedis, woken: asyncio.Event, way: str) -> None:
    doorbells = Doorbells(redis, QUEUE)
    async with alongside(wakeup.listen(redis, QUEUE, woken=woken.set)):
        await asyncio.wait_for(woken.wait(), 5)
        woken.clear()
        if way == "enqueue":
            await redis.enqueue_job("purge-old-deleted", _job_id="r")
        elif way == "ring":
            assert await doorbells.ring(["r"]) == 1
        else:
            await doorbells.ring_again("r", after=timedelta(0))
        await asyncio.wait_for(woken.wait(), 5)
        assert await redis.zscore(QUEUE, "r") is not None


async def test_a_ring_for_another_queue_wakes_nobody(redis: ArqRedis, woken: asyncio.Event) -> None:
    async with alongside(wakeup.listen(redis, QUEUE, woken=woken.set)):
        await asyncio.wait_for(woken.wait(), 5)
        woken.clear()
        await redis.enqueue_job("purge-old-deleted", _job_id="r", _queue_name="other")
        assert await redis.publish(wakeup.channel("nobody"), b"") == 0  # all that was published has been handed out
        assert await redis.pubsub_numsub(wakeup.channel(QUEUE)) == [(wakeup.channel(QUEUE).encode(), 1)]
        assert not woken.is_set()


async def test_a_listener_whose_connection_was_lost_listens_again(redis: ArqRedis, woken: asyncio.Event) -> None:
    async with alongside(wakeup.listen(redis, QUEUE, woken=woken.set)) as listening:
        for _ in range(2):
            await asyncio.wait_for(woken.wait(), 5)
            woken.clear()
            assert await redis.client_kill_filter(_type="pubsub") == 1
        await asyncio.wait_for(woken.wait(), 5)
        woken.clear()
        await eventually(lambda: redis.publish(wakeup.channel(QUEUE), b""))
        await asyncio.wait_for(woken.wait(), 5)
        assert not listening.done()


async def test_a_listener_that_finds_no_server_tries_again(
    redis: ArqRedis, woken: asyncio.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After redis-py's own tries. Control: without the loop around it, that is the end of all wake-ups."""
    subscribe = redis.pubsub
    tries = 0

    def away_twice() -> PubSub:
        nonlocal tries
        tries += 1
        if tries <= 2:
            raise RedisConnectionError("no server")
        return subscribe()

    monkeypatch.setattr(redis, "pubsub", away_twice)
    monkeypatch.setattr(wakeup, "AGAIN_S", 0.01)
    async with alongside(wakeup.listen(redis, QUEUE, woken=woken.set)):
        await asyncio.wait_for(woken.wait(), 5)
    assert tries == 3


async def test_an_enqueue_that_is_refused_as_a_duplicate_still_returns_none(redis: ArqRedis) -> None:
    assert await redis.enqueue_job("purge-old-deleted", _job_id="r") is not None
    assert await redis.enqueue_job("purge-old-deleted", _job_id="r") is None
