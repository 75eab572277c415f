"""What a monitoring system sees: a real request, made by a thread so that the event loop is free to be watched."""

import asyncio
import urllib.error
import urllib.request


def get(url: str, *, method: str = "GET") -> tuple[int, str]:
    """Status and body; blocks."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method=method), timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as refused:
        with refused:
            return refused.code, refused.read().decode()


async def asked(url: str) -> tuple[int, str]:
    return await asyncio.to_thread(get, url)


async def answers(url: str, code: int) -> str | None:
    """The body where the answer has this status: to be waited for."""
    status, body = await asked(url)
    return body if status == code else None
