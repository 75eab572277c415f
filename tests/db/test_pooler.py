"""A transaction pooler is recognised, however it hands out its processes; direct and session connections are not taken
for one."""

import asyncpg
import pytest

from db import pooler
from db.engine import Address
from tests.pooler import Mode, behind_a_pooler


@pytest.mark.parametrize("newest_first", [True, False])
@pytest.mark.parametrize(
    ("mode", "size"), [("transaction", 1), ("transaction", 2), ("transaction", 5), ("session", 2), ("session", 5)]
)
async def test_a_pooler_of_transactions_is_told_from_one_of_sessions(
    database_url: str, mode: Mode, size: int, newest_first: bool
) -> None:
    async with behind_a_pooler(database_url, mode, size=size, newest_first=newest_first) as url:
        assert await pooler.is_transactional(Address.parse(url)) == (mode == "transaction")


async def test_a_direct_connection_is_none(database_url: str) -> None:
    assert not await pooler.is_transactional(Address.parse(database_url))


async def test_what_a_session_sets_is_lost_behind_one(database_url: str) -> None:
    """Why it is refused; and that the pooler of these tests is one."""
    async with behind_a_pooler(database_url, "transaction", newest_first=False) as url:
        connection = await asyncpg.connect(url, statement_cache_size=0)
        await connection.execute("SET application_name = 'ours'")
        async with connection.transaction():
            assert await connection.fetchval("SHOW application_name") != "ours"
        connection.terminate()
