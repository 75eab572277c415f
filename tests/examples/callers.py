"""What the tests of the service say to it, and what they look at afterwards."""

from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg
import httpx


def acting(actor: int) -> dict[str, str]:
    return {"X-Actor": str(actor)}


async def patiently(asked: Callable[[], Awaitable[httpx.Response]]) -> httpx.Response:
    """Ask again while the answer is that it is busy, as a client should: on a slow machine a lock is held for long."""
    while (answer := await asked()).status_code == httpx.codes.SERVICE_UNAVAILABLE:
        assert error(answer)["type"] == "Busy"
    return answer


def error(answer: httpx.Response) -> dict[str, Any]:
    """The body of a refusal, whose shape never changes."""
    body: dict[str, Any] = answer.json()["error"]
    assert set(body) in ({"type", "message", "ids"}, {"type", "message", "ids", "fields"})
    return body


def titles(answer: httpx.Response) -> list[str]:
    assert answer.status_code == 200, answer.text
    return [task["title"] for task in answer.json()["items"]]


async def everything(sql: asyncpg.Connection) -> list[asyncpg.Record]:
    """Every row that the service could change, with the transaction that wrote it: equal only where nothing did."""
    return [
        row
        for table in ("worker", "project", "task", "lowtide.run")
        for row in await sql.fetch(f"SELECT xmin::text, * FROM {table} ORDER BY id")
    ]
