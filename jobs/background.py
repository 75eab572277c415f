"""Work that goes on beside other work, and surely ends with it."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any

# How long a cancelled task may take before it is cancelled again.
PATIENCE_S = 0.1


@asynccontextmanager
async def alongside(work: Coroutine[Any, Any, None]) -> AsyncIterator["asyncio.Task[None]"]:
    """Run `work` until the block ends; then it is cancelled, as often as that takes.

    Once is not always enough: below Python 3.12 `asyncio.wait_for`, which drivers connect with, loses a cancellation
    that arrives together with its result (cpython issue 81839).
    """
    task = asyncio.create_task(work)
    try:
        yield task
    finally:
        while not task.done():
            task.cancel()
            await asyncio.wait([task], timeout=PATIENCE_S)
