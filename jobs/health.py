"""stub"""

import asyncpg


class Health:
    def __init__(self, relation: str) -> None:
        self.unknown: set[str] = set()

    async def trouble(self, connection: asyncpg.Connection) -> str | None:
        return None
