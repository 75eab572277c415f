"""The example service as its callers meet it."""

from collections.abc import AsyncIterator

import asyncpg
import httpx
import pytest_asyncio

from tests import people
from tests.examples.server import serving


@pytest_asyncio.fixture
async def service(database_url: str) -> AsyncIterator[httpx.AsyncClient]:
    async with serving(database_url) as client:
        yield client


@pytest_asyncio.fixture
async def tasks(sql: asyncpg.Connection) -> people.Tasks:
    """One task of each kind, and the people of tests/people.py."""
    await people.people(sql)
    return await people.tasks(sql)
