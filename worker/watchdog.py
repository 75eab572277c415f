"""Runs one server for as long as the process that started us lives. Standard library only; started by path.

Usage: watchdog.py FOLDER keep|remove USER_ID|- STOP_SIGNAL LOG

Commands on stdin, a line each: `start ["COMMAND", …]` (JSON), `stop SIGNAL`. Answers on stdout: `started PID`,
`exited CODE` (also when the server ends by itself). When stdin ends, which it does however our parent dies, the server
is stopped and a folder that is to be removed is removed.
"""

import contextlib
import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import IO

PR_SET_PDEATHSIG = 1
STOP_WITHIN_S = 10.0


class Server:
    """The one child. Reaped by a thread of its own, which says so."""

    def __init__(self, folder: str, user_id: int | None, log: str) -> None:
        self._folder = folder
        self._user_id = user_id
        self._log = log
        self._child: subprocess.Popen[bytes] | None = None
        self._reaper: threading.Thread | None = None

    def start(self, command: list[str]) -> None:
        ours = os.getpid()
        with Path(self._log).open("ab") as log:
            self._child = subprocess.Popen(  # noqa: S603 - the command is our starter's
                command,
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                user=self._user_id,
                group=None if self._user_id is None else self._user_id,
                extra_groups=None if self._user_id is None else [],
                preexec_fn=lambda: die_with_parent(ours),  # noqa: PLW1509 - we have no other thread yet that could hold a lock
            )
        say(f"started {self._child.pid}")
        self._reaper = threading.Thread(target=self._reap, args=(self._child,), daemon=True)
        self._reaper.start()

    def stop(self, number: int) -> None:
        """Ask with the signal; insist after some seconds."""
        if self._child is None or self._reaper is None:
            return
        if self._child.returncode is None:
            self._child.send_signal(number)
        self._reaper.join(STOP_WITHIN_S)
        if self._reaper.is_alive():
            self._child.kill()
            self._reaper.join()

    @staticmethod
    def _reap(child: "subprocess.Popen[bytes]") -> None:
        say(f"exited {child.wait()}")


def die_with_parent(parent: int) -> None:
    """In the child, after it has changed its user (which would clear this): Linux kills it when its parent is gone."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)


def say(line: str) -> None:
    with contextlib.suppress(BrokenPipeError):  # nobody listens: the end of stdin says what to do
        os.write(sys.stdout.fileno(), f"{line}\n".encode())  # unbuffered: nothing is left to fail at our exit


def serve(commands: IO[str], server: Server) -> None:
    for line in commands:
        match line.split(maxsplit=1):
            case ["start", command]:
                server.start(json.loads(command))
            case ["stop", name]:
                server.stop(signal.Signals[name.strip()])


def main(arguments: list[str]) -> None:
    folder, afterwards, user, stop_signal, log = arguments
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)  # we end when our parent does, not before
    server = Server(folder, None if user == "-" else int(user), log)
    try:
        serve(sys.stdin, server)
    finally:
        server.stop(signal.Signals[stop_signal])
        if afterwards == "remove":
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main(sys.argv[1:])
