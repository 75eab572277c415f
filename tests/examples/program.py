"""An example as a reader runs it: a process of its own, from the root of the clone."""

import asyncio
import sys
from pathlib import Path

from tests.contract.cli import Done, environment

ROOT = Path(__file__).parents[2]


async def run(name: str, *arguments: str, **settings: str) -> Done:
    """Run it to its end; `settings` become LOWTIDE_ variables."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, f"examples/{name}.py", *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=ROOT,
        env=environment(**settings) | {"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error"},
    )
    out, err = await process.communicate()
    return Done(process.returncode or 0, out.decode(), err.decode())
