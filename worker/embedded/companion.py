"""A lowtide worker as a process of its own that ends when we do: for the demo, development and tests."""

import os
import signal
import sys

from worker.embedded.account import Account
from worker.embedded.server import Server


class Companion(Server):
    """`lowtide worker` with the given LOWTIDE_ settings. Runs as we do, not as the servers."""

    kind = "worker"
    gentle_stop = signal.SIGTERM
    immediate_stop = signal.SIGKILL

    def __init__(self, **settings: str) -> None:
        super().__init__()
        self.account = Account(None)
        named = {f"LOWTIDE_{name.upper()}": value for name, value in settings.items()}
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith("LOWTIDE_")}
        self.environment |= named | {"PYTHONUNBUFFERED": "1"}

    async def prepare(self) -> list[str]:
        return [sys.executable, "-m", "worker", "worker"]

    async def answers(self) -> bool:
        return self.log.exists() and "worker.started" in self.log.read_text(errors="replace")
