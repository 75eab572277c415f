"""The command as an operator runs it: a process of its own, with nothing but its settings."""

import asyncio
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Done:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def as_role(url: str, role: str) -> str:
    """The URL of a login whose password is `secret`."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=f"{role}:secret@{parts.netloc.rpartition('@')[2]}"))


def environment(**settings: str) -> dict[str, str]:
    """Ours without any LOWTIDE_ variable, and the given ones."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("LOWTIDE_")}
    return kept | {f"LOWTIDE_{name.upper()}": value for name, value in settings.items()}


async def lowtide(*arguments: str, stdin: str = "", **settings: str) -> Done:
    """Run it to its end."""
    return await _run(arguments, stdin=stdin, given=environment(**settings))


async def lowtide_with_temporary_files_in(folder: Path, *arguments: str) -> Done:
    return await _run(arguments, stdin="", given=environment() | {"TMPDIR": str(folder)})


async def _run(arguments: tuple[str, ...], *, stdin: str, given: dict[str, str]) -> Done:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "worker", *arguments),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=ROOT,
        env=given | {"PYTHONPATH": str(ROOT)},
    )
    out, err = await process.communicate(stdin.encode())
    return Done(process.returncode or 0, out.decode(), err.decode())
