"""Waiting for a condition, never for a time."""

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import Any


async def eventually(condition: Callable[[], Any | Awaitable[Any]], *, within_s: float = 10) -> Any:
    """Ask until the condition is truthy, and return what it said; fail when that takes too long."""
    deadline = time.monotonic() + within_s
    while True:
        said = condition()
        if inspect.isawaitable(said):
            said = await said
        if said:
            return said
        assert time.monotonic() < deadline, f"{condition} did not hold within {within_s} s"
        await asyncio.sleep(0.02)
