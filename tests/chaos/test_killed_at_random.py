"""Workers killed and stopped at random moments of all four jobs: each run ends as if nothing had happened."""

import asyncio
import signal
import time
from functools import partial

import asyncpg
from arq.connections import ArqRedis

from tests.chaos.scale import LEASE_S, chance, tell, times
from tests.chaos.stagehands import Act, at_work, kill, pause, set_up, two_workers
from tests.eventually import eventually
from worker.embedded import Valkey


async def test_sigkill_at_any_moment_repeats_and_loses_nothing(
    database_url: str, valkey: Valkey, redis: ArqRedis, sql: asyncpg.Connection
) -> None:
    """Two workers; one is killed somewhere in the middle, the other takes its runs over within the lease and 5 s."""
    drawn = chance("kill")
    await set_up(sql)
    takeovers = []
    async with two_workers(database_url, valkey.url) as workers:
        for number in times(4, 200):
            act = Act(number)
            await act.enqueue(sql)
            await pause(drawn.uniform(0, 0.8))
            victim = drawn.choice(workers)
            await kill(victim)
            killed = time.monotonic()
            orphans = await sql.fetchval(
                "SELECT array_agg(id) FROM lowtide.run "
                "WHERE state = 'running' AND worker LIKE '%:' || $1 AND id = ANY($2)",
                str(victim.pid),
                act.ids,
            )
            restarted = asyncio.create_task(victim.start())
            if orphans:
                await eventually(partial(_taken_over, sql, orphans, victim.pid), within_s=LEASE_S + 5)
                takeovers.append(time.monotonic() - killed)
            await act.ended(sql)
            await restarted
            await act.check(sql)
    tell(f"{len(takeovers)} takeovers (lease {LEASE_S} s), the longest {max(takeovers, default=0):.1f} s")


async def _taken_over(sql: asyncpg.Connection, ids: list[str], pid: int) -> bool:
    left: int = await sql.fetchval(
        "SELECT count(*) FROM lowtide.run WHERE id = ANY($1) AND state = 'running' AND worker LIKE '%:' || $2",
        ids,
        str(pid),
    )
    return left == 0


async def test_sigterm_in_the_middle_costs_no_attempt(
    database_url: str, valkey: Valkey, redis: ArqRedis, sql: asyncpg.Connection
) -> None:
    drawn = chance("term")
    await set_up(sql)
    longest = 0.0
    async with two_workers(database_url, valkey.url) as workers:
        for number in times(3, 50):
            act = Act(number)
            await act.enqueue(sql)
            await at_work(sql, act.id_of("purge"))
            await pause(drawn.uniform(0, 0.3))
            victim = drawn.choice(workers)
            begun = time.monotonic()
            await kill(victim, signal.SIGTERM)
            longest = max(longest, time.monotonic() - begun)
            await victim.start()
            await act.ended(sql)
            await act.check(sql)
            attempts = await sql.fetch("SELECT attempt FROM lowtide.run WHERE id = ANY($1)", act.ids)
            assert {row["attempt"] for row in attempts} == {1}
    tell(f"after SIGTERM the longest way out took {longest:.1f} s")
    assert longest < 5
