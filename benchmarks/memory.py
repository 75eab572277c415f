"""The most memory that a fresh worker process needs for one run through a real queue."""

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

from benchmarks.stage import Stage
from worker import doorbells
from worker.embedded import Valkey

# VmHWM is this program's own; getrusage's ru_maxrss begins at that of the process that started it (Linux, execve).
BURST = """
import asyncio, pathlib, re
from worker import process, settings, telemetry
telemetry.configure()
code = asyncio.run(process.work(settings.load(), burst=True))
print(code, re.search(r"VmHWM:\\s+(\\d+) kB", pathlib.Path("/proc/self/status").read_text())[1])
"""


async def peak_rss_mb(stage: Stage, job: str, **payload: Any) -> float:
    async with stage.clone() as database, Valkey() as valkey:
        redis = doorbells.connect(valkey.url, queue="arq:queue")
        await redis.enqueue_job(job, **payload)
        await redis.aclose(close_connection_pool=True)
        urls = {"LOWTIDE_DATABASE_URL": database.address.dsn, "LOWTIDE_REDIS_URL": valkey.url}
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", BURST),
            cwd=Path(__file__).parents[1],
            env=os.environ | urls,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
        said, _ = await process.communicate()
        exit_code, kilobytes = said.split()
        async with database.autocommit() as connection:
            states = {row["state"] for row in await connection.fetch("SELECT state FROM lowtide.run")}
    if exit_code != b"0" or states != {"succeeded"}:  # a run that waits for better times ends a burst too
        raise RuntimeError(f"the worker's run did not succeed: {states}")
    return int(kilobytes) / 1024
