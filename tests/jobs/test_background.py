"""Background work ends with the block that it belongs to."""

import asyncio

import pytest

from jobs.background import alongside


async def test_it_runs_beside_and_ends_with_the_block() -> None:
    begun = asyncio.Event()

    async def work() -> None:
        begun.set()
        await asyncio.Event().wait()

    async with alongside(work()) as task:
        await asyncio.wait_for(begun.wait(), 1)
        assert not task.done()
    assert task.cancelled()


async def test_work_that_loses_a_cancellation_ends_all_the_same() -> None:
    """As a tick of the dispatcher did, that was connecting when SIGTERM came: the process never ended.

    Control: cancelled once, this test does not return.
    """
    lost = 0

    async def work() -> None:
        nonlocal lost
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                lost += 1
                if lost == 3:
                    raise

    async def block() -> None:
        async with alongside(work()):
            await asyncio.sleep(0)

    await asyncio.wait_for(block(), 5)
    assert lost == 3


async def test_an_error_of_the_block_passes() -> None:
    with pytest.raises(ZeroDivisionError):
        async with alongside(asyncio.sleep(60)):
            _ = 1 / 0
