"""One server in one folder, behind a watchdog that outlives us just long enough to clean up."""

import asyncio
import contextlib
import json
import signal
import socket
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from worker import watchdog
from worker.embedded.account import Account, EmbeddedError, kept_folder, temporary_folder

START_WITHIN_S = 30.0
LOOK_EVERY_S = 0.02
LOG_LINES_SHOWN = 8


class Server:
    """Shared by PostgreSQL and Valkey: the watchdog, the folder and the port. The two say what they run."""

    kind: str
    gentle_stop: signal.Signals  # lets clients finish nothing, loses nothing
    immediate_stop: signal.Signals  # as a crash would

    def __init__(self, folder: Path | None = None) -> None:
        self._given = folder
        self.environment: dict[str, str] | None = None  # None: ours
        self.temporary = folder is None
        self.account = Account.for_servers()
        self.folder = Path()
        self.port = 0
        self.pid = 0
        self.exited = asyncio.Event()
        self._watchdog: asyncio.subprocess.Process | None = None
        self._listener: asyncio.Task[None] | None = None
        self._command: list[str] = []
        self._answers: asyncio.Queue[str] = asyncio.Queue()

    async def prepare(self) -> list[str]:
        """Make the folder ready, and return the server's command."""
        raise NotImplementedError

    async def answers(self) -> bool:
        """Whether the server takes requests."""
        raise NotImplementedError

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def log(self) -> Path:
        return self.folder / "server.log"

    async def start(self) -> None:
        """Start, and return when the server answers; again on the same port after a stop. Raises EmbeddedError."""
        try:
            if self._watchdog is None:
                await self._begin()
            self.exited.clear()
            await self._tell(f"start {json.dumps(self._command)}")
            self.pid = int((await self._answer("started")).split()[1])
            await self._until_it_answers()
        except BaseException:
            await self.close()
            raise

    async def stop(self, *, immediate: bool = False) -> None:
        """Stop, and keep the folder; `immediate` is what a crash would be."""
        if self._watchdog is None or self.exited.is_set():
            return
        await self._tell(f"stop {(self.immediate_stop if immediate else self.gentle_stop).name}")
        await self.exited.wait()

    async def close(self) -> None:
        """Stop for good; a temporary folder is gone when this returns."""
        process, self._watchdog = self._watchdog, None
        if process is None or process.stdin is None:
            return
        process.stdin.close()
        await process.wait()
        if self._listener is not None:
            await self._listener

    async def _begin(self) -> None:
        self.folder = (
            temporary_folder(self.kind.lower(), self.account)
            if self._given is None
            else kept_folder(self._given, self.account)
        )
        user = "-" if self.account.user_id is None else str(self.account.user_id)
        self._watchdog = await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", "-S", watchdog.__file__, str(self.folder)),
            *("remove" if self.temporary else "keep", user, self.gentle_stop.name, str(self.log)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env=self.environment,
            start_new_session=True,  # Ctrl-C at the terminal is ours alone
        )
        self._listener = asyncio.create_task(self._listen(self._watchdog))
        self._command = await self.prepare()

    async def _listen(self, process: asyncio.subprocess.Process) -> None:
        if process.stdout is None:
            return
        async for line in process.stdout:
            if line.startswith(b"exited"):
                self.exited.set()
            else:
                self._answers.put_nowait(line.decode())
        self.exited.set()

    async def _tell(self, line: str) -> None:
        if self._watchdog is None or self._watchdog.stdin is None:
            raise EmbeddedError(f"{self.kind} was not started")
        self._watchdog.stdin.write(f"{line}\n".encode())
        await self._watchdog.stdin.drain()

    async def _answer(self, word: str) -> str:
        line = await asyncio.wait_for(self._answers.get(), START_WITHIN_S)
        if not line.startswith(word):
            raise EmbeddedError(f"the watchdog of {self.kind} said {line!r}")
        return line

    async def _until_it_answers(self) -> None:
        deadline = time.monotonic() + START_WITHIN_S
        while not await self.answers():
            if self.exited.is_set() or time.monotonic() > deadline:
                raise EmbeddedError(f"{self.kind} did not start in {self.folder}: {self._last_words()}")
            await asyncio.sleep(LOOK_EVERY_S)

    def _last_words(self) -> str:
        lines = self.log.read_text(errors="replace").splitlines() if self.log.exists() else []
        return " / ".join(lines[-LOG_LINES_SHOWN:]) or "it said nothing"


def free_port() -> int:
    """A port that nobody listens on now."""
    with contextlib.closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
