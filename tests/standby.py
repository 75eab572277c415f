"""A standby of an embedded PostgreSQL, copied with pg_basebackup."""

import asyncio

from worker.embedded import Postgres


class Standby(Postgres):
    """Streams from `primary` under the name `name`."""

    def __init__(self, primary: Postgres, *, name: str) -> None:
        source = f"host=127.0.0.1 port={primary.port} user=postgres application_name={name}"
        super().__init__(settings={"primary_conninfo": source, "max_wal_size": "32MB"})
        self._source = source

    async def _initialise(self) -> None:
        process = await asyncio.create_subprocess_exec(
            *(str(self.binary("pg_basebackup")), "-D", str(self.data), "-d", self._source),
            *("--checkpoint=fast", "--no-sync", "-X", "stream"),
            cwd=self.folder,
            stderr=asyncio.subprocess.PIPE,
            env={"PATH": "/usr/bin:/bin", "LC_ALL": "C"},
            user=self.account.user_id,
            group=self.account.user_id,
            extra_groups=None if self.account.user_id is None else [],
        )
        _, said = await process.communicate()
        assert process.returncode == 0, said.decode(errors="replace")
        (self.data / "standby.signal").touch()
        self.account.own(self.data / "standby.signal")
