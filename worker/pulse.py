"""Whether this process is alive and ready: written by its event loop, read by the threads that answer for it."""

import asyncio
import time
from collections.abc import Mapping

LOOP, QUEUE, POSTGRESQL, REDIS = "event loop", "queue", "PostgreSQL", "Redis"
# How old a sign of life may be. The loop gives one twice a second; the servers are asked every two; a look at the queue
# waits up to 20 s for a Redis that is away.
OLDEST_S: Mapping[str, float] = {LOOP: 5.0, QUEUE: 30.0, POSTGRESQL: 15.0, REDIS: 15.0}


class Pulse:
    """The last sign of each part. Each is one assignment, so a reader in another thread needs no lock."""

    def __init__(self, oldest_s: Mapping[str, float] = OLDEST_S) -> None:
        self._oldest_s = oldest_s
        self._signs: dict[str, tuple[float, str | None]] = {}
        self._stopping: asyncio.Event | None = None
        self.sign(LOOP)

    def sign(self, part: str, fault: str | None = None) -> None:
        """A part was seen just now; `fault` says what was wrong with it, in words that hold nothing secret."""
        self._signs[part] = (time.monotonic(), fault)

    def started(self, stopping: asyncio.Event) -> None:
        """The worker consumes, until `stopping` is set."""
        self._stopping = stopping

    def why_not_live(self) -> str | None:
        return self.faults()[LOOP]

    def why_not_ready(self) -> str | None:
        if self._stopping is None:
            return "the worker is starting"
        if self._stopping.is_set():
            return "the worker is stopping"
        return "; ".join(fault for fault in self.faults().values() if fault is not None) or None

    def faults(self) -> dict[str, str | None]:
        """By part, one sentence about what is wrong; None while all is well."""
        return {part: self._fault(part, oldest_s) for part, oldest_s in self._oldest_s.items()}

    def _fault(self, part: str, oldest_s: float) -> str | None:
        if part not in self._signs:
            return f"{part}: no sign of it yet"
        at, fault = self._signs[part]
        age_s = time.monotonic() - at
        if fault is not None:
            return f"{part}: {fault}"
        return f"{part}: the last sign of it is {age_s:.0f} s old" if age_s > oldest_s else None
