"""What `lowtide check` finds in Redis or Valkey."""

from typing import Any

from arq.connections import ArqRedis
from redis.exceptions import RedisError, ResponseError

from jobs.facts import Fact
from worker import process

REDIS = "Redis"
KEEPS_ALL = "noeviction"


async def checkup(redis: ArqRedis, queue: str) -> list[Fact]:
    """Raises what a lost connection raises."""
    return [*await _server(redis), await _queue(redis, queue)]


async def _server(redis: ArqRedis) -> list[Fact]:
    where = process.redis_server(redis)
    await redis.ping()
    try:
        info: dict[str, Any] = await redis.info()
    except ResponseError as exc:  # not every login may, and not every service has it
        return [Fact(REDIS, "note", f"answers at {where}; INFO is refused, so no more is known: {exc}")]
    kind = "Valkey" if info.get("server_name") == "valkey" else REDIS
    version = info.get("valkey_version", info.get("redis_version", "of an unknown version"))
    facts = [Fact(REDIS, "ok", f"{kind} {version} at {where}")]
    if info.get("role") == "slave":
        told = "this server is a replica, which takes no change"
        facts.append(Fact(REDIS, "fault", told, "Name the primary in LOWTIDE_REDIS_URL, or the Sentinels"))
    return facts + _eviction(info)


def _eviction(info: dict[str, Any]) -> list[Fact]:
    policy = info.get("maxmemory_policy", KEEPS_ALL)
    if policy == KEEPS_ALL:
        return []
    when = "when memory runs short" if info.get("maxmemory") else "once maxmemory is set"
    told = f"maxmemory-policy is {policy}: {when}, messages vanish that are not in the ledger yet"
    return [Fact(REDIS, "warning", told, f"CONFIG SET maxmemory-policy {KEEPS_ALL}")]


async def _queue(redis: ArqRedis, queue: str) -> Fact:
    try:
        kind = (await redis.type(queue)).decode()
    except ResponseError as exc:
        return Fact(
            REDIS, "fault", f"queue {queue} can't be looked at: {exc}", "Give this login all rights on its keys"
        )
    if kind in {"none", "zset"}:
        return Fact(REDIS, "ok", f"queue {queue} is {'a sorted set' if kind == 'zset' else 'empty'}")
    told = f"key {queue} is a {kind}, not the sorted set that a queue is"
    return Fact(REDIS, "fault", told, "Name another key in LOWTIDE_QUEUE, or remove what stands there")


def unreachable(redis: ArqRedis, error: RedisError | OSError) -> Fact:
    return Fact(
        REDIS,
        "fault",
        f"{process.redis_server(redis)} can't be reached: {process.why_away(error)}",
        "See LOWTIDE_REDIS_URL",
    )
