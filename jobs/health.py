"""When a gentle run stops for a while: PostgreSQL is in trouble, whoever has caused it."""

from collections.abc import Awaitable, Iterable
from dataclasses import dataclass
from typing import TypeVar

import asyncpg

from db import health
from db.faults import sqlstate

NOT_TO_BE_KNOWN = {
    "42501",  # insufficient_privilege: roles without pg_monitor
    "55000",  # object_not_in_prerequisite_state: pg_current_wal_lsn() on a standby
    "42883",  # undefined_function: not in every managed PostgreSQL
}
Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Limits:
    """Beyond which a run waits. A purge of a million rows writes about 60 MB of WAL."""

    replica_lag_bytes: int = 64 * 2**20
    archive_backlog_files: int = 32  # of 16 MB: half a gigabyte
    oldest_xmin_age: int = 50_000_000  # a quarter of autovacuum_freeze_max_age's default
    frozen_age: int = 1_600_000_000  # vacuum_failsafe_age's default


class Health:
    """Remembers the standbys that were there at the beginning, and in `unknown` what can't be read here."""

    def __init__(self, relation: str, limits: Limits | None = None, *, standbys: Iterable[str] | None = None) -> None:
        self.unknown: set[str] = set()
        self._relation = relation
        self._limits = limits or Limits()
        self._standbys = None if standbys is None else set(standbys)

    async def remember(self, connection: asyncpg.Connection) -> list[str]:
        """The standbys that are there now; one of them that is gone later is a trouble."""
        standbys = await self._known("replica lag", health.standbys(connection)) or []
        self._standbys = {standby.name for standby in standbys if standby.name is not None}
        return sorted(self._standbys)

    async def trouble(self, connection: asyncpg.Connection) -> str | None:
        """One sentence about what is wrong; None while all is well, as far as it can be known."""
        return (
            await self._replicas(connection)
            or await self._slots(connection)
            or await self._archive(connection)
            or await self._oldest_xmin(connection)
            or await self._wraparound(connection)
        )

    async def _replicas(self, connection: asyncpg.Connection) -> str | None:
        standbys = await self._known("replica lag", health.standbys(connection))
        if standbys is None:
            return None
        names = {standby.name for standby in standbys if standby.name is not None}
        if self._standbys is None:
            self._standbys = names
        if gone := sorted(self._standbys - names):
            return f'standby "{gone[0]}" is gone'
        for standby in standbys:
            if standby.lag_bytes is None:
                self.unknown.add("replica lag")
            elif standby.lag_bytes > self._limits.replica_lag_bytes:
                behind = f"{_mb(standby.lag_bytes)} behind (limit {_mb(self._limits.replica_lag_bytes)})"
                return f'standby "{standby.name or "without a name"}" is {behind}'
        return None

    async def _slots(self, connection: asyncpg.Connection) -> str | None:
        slot = await self._known("replication slots", health.slot_behind(connection))
        return None if slot is None else f'replication slot "{slot.name}" is behind: wal_status {slot.wal_status}'

    async def _archive(self, connection: asyncpg.Connection) -> str | None:
        files = await self._known("WAL archive backlog", health.archive_backlog(connection))
        limit = self._limits.archive_backlog_files
        return f"{files} WAL files wait to be archived (limit {limit})" if files is not None and files > limit else None

    async def _oldest_xmin(self, connection: asyncpg.Connection) -> str | None:
        age = await self._known("oldest xmin", health.oldest_xmin_age(connection))
        if age is None:
            self.unknown.add("oldest xmin")
            return None
        limit = self._limits.oldest_xmin_age
        return f"a snapshot {age:,} transactions old keeps dead rows (limit {limit:,})" if age > limit else None

    async def _wraparound(self, connection: asyncpg.Connection) -> str | None:
        age = await health.frozen_age(connection, self._relation)
        limit = self._limits.frozen_age
        if age is None or age <= limit:
            return None
        return f"{self._relation} was frozen {age:,} transactions ago (limit {limit:,}): it needs VACUUM (FREEZE)"

    async def _known(self, name: str, question: Awaitable[Answer]) -> Answer | None:
        """The answer; None, and noted, where this server or this role does not give one."""
        try:
            return await question
        except asyncpg.PostgresError as exc:
            if sqlstate(exc) not in NOT_TO_BE_KNOWN:
                raise
            self.unknown.add(name)
            return None


def _mb(size_bytes: int) -> str:
    return f"{size_bytes / 2**20:,.0f} MB"
