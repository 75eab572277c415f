"""`lowtide demo`, with fewer rows: it plays to its end, proves it in SQL, and leaves nothing behind."""

import asyncio
import signal
import sys
from pathlib import Path

import pytest

from tests.contract.cli import ROOT, environment, lowtide_with_temporary_files_in
from tests.eventually import eventually
from tests.folders import passable


async def test_it_plays_all_four_jobs_and_leaves_nothing(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = passable(tmp_path_factory)
    folder.chmod(0o777)
    done = await lowtide_with_temporary_files_in(folder, "demo", "--tasks", "20000")

    assert done.code == 0, done.err
    assert "Counted in SQL: 10,000 overdue tasks before, 0 now; 30,000 others" in done.out
    for job in ("create-batch", "mark-completed", "archive-project", "purge-old-deleted"):
        assert f"✓ {job}: " in done.err
    assert list(folder.iterdir()) == []
    assert using(folder) == []


async def test_stopped_in_the_middle_it_leaves_nothing_either(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = passable(tmp_path_factory)
    folder.chmod(0o777)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "worker", "demo", "--tasks", "20000"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=ROOT,
        env=environment() | {"TMPDIR": str(folder)},
    )
    assert process.stderr is not None
    await process.stderr.readline()
    process.send_signal(signal.SIGINT)
    await process.communicate()

    assert process.returncode == 130
    await eventually(lambda: using(folder) == [])
    assert list(folder.iterdir()) == []


def using(folder: Path) -> list[str]:
    """Command lines of processes that name the folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = process.read_bytes().decode(errors="replace")
        except OSError:
            continue
        if str(folder) in command:
            found.append(command)
    return found
