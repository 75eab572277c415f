"""Logs: lines for people on a terminal, JSON otherwise. Each seen in a process of its own."""

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EVENT = """
import structlog
from worker import telemetry
telemetry.configure(verbose={verbose})
structlog.get_logger().info("some.event", rows=3)
structlog.get_logger().debug("some.detail")
"""
ERROR = """
import structlog
from worker import telemetry
telemetry.configure()
def work(payload):
    raise RuntimeError("it broke")
try:
    work("hunter2")
except RuntimeError:
    structlog.get_logger().exception("some.fault")
"""
LIBRARY = """
import logging
from worker import telemetry
telemetry.configure()
logging.basicConfig(level=logging.INFO)
logging.getLogger("arq.worker").info("hunter2")
logging.getLogger("arq.worker").warning("heard")
"""


async def said(program: str, *, terminal: bool = False) -> str:
    """What the program writes to its stderr, which is a terminal or a pipe."""
    reader, writer = os.openpty() if terminal else os.pipe()
    command = [sys.executable, "-c", program]
    done = await asyncio.to_thread(
        subprocess.run, command, cwd=ROOT, stdout=subprocess.PIPE, stderr=writer, check=True, timeout=30
    )
    os.close(writer)
    assert done.stdout == b"", "results go to stdout, logs do not"
    return await asyncio.to_thread(_all_of, reader)


def _all_of(reader: int) -> str:
    chunks = []
    try:
        while chunk := os.read(reader, 65536):
            chunks.append(chunk)
    except OSError:  # the end of a terminal that nobody has open any more
        pass
    os.close(reader)
    return b"".join(chunks).decode()


async def test_a_program_gets_one_json_object_a_line() -> None:
    (line,) = (await said(EVENT.format(verbose=False))).splitlines()
    told = json.loads(line)
    assert (told["event"], told["level"], told["rows"]) == ("some.event", "info", 3)
    assert told["timestamp"].endswith("Z")


async def test_people_get_a_line_that_reads_as_one() -> None:
    (line,) = (await said(EVENT.format(verbose=False), terminal=True)).splitlines()
    assert "some.event" in line
    with pytest.raises(json.JSONDecodeError):
        json.loads(line)


async def test_details_are_there_when_asked_for() -> None:
    lines = (await said(EVENT.format(verbose=True))).splitlines()
    assert [json.loads(line)["event"] for line in lines] == ["some.event", "some.detail"]


@pytest.mark.parametrize("terminal", [True, False])
async def test_a_traceback_shows_no_variable(terminal: bool) -> None:
    """A variable may be a payload. On a terminal the program's own line is quoted, so only its name may be there."""
    told = await said(ERROR, terminal=terminal)
    assert "it broke" in told
    assert "hunter2" not in told


async def test_a_fault_is_one_line_for_a_program() -> None:
    (line,) = (await said(ERROR)).splitlines()
    (fault,) = json.loads(line)["exception"]
    assert fault["exc_type"] == "RuntimeError"
    assert [frame["name"] for frame in fault["frames"]] == ["<module>", "work"]


async def test_what_arq_says_of_each_job_with_its_arguments_is_not_logged() -> None:
    told = await said(LIBRARY)
    assert "heard" in told
    assert "hunter2" not in told
