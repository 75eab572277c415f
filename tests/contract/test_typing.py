"""What mypy says to a service that forgets an `await`, or mixes up what goes in."""

import asyncio
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
SERVICE = """
from sqlalchemy.ext.asyncio import AsyncSession

from db.schemas import Page, TaskCreate, TaskFilter, TaskRead
from db.taskservice import TaskService


async def listed(service: TaskService) -> Page[TaskRead]:
    return {await}service.page_after(TaskFilter(status="pending"))


async def made(service: TaskService) -> int:
    task = {await}service.create(TaskCreate(project_id=1, title="A task"), actor=2)
    return task.id


async def gone(service: TaskService) -> None:
    {await}service.delete(7, actor=2)


async def counted(service: TaskService) -> bool:
    if {await}service.count():
        return True
    return False


async def several(session: AsyncSession) -> list[str]:
    tasks = TaskService(session)
    return [task.title for task in ({await}tasks.search("text")).items]
"""
WRONG = """
from db.schemas import TaskCreate, TaskFilter
from db.taskservice import TaskService


async def mixed_up(service: TaskService) -> None:
    await service.create({"project_id": 1, "title": "A task"}, actor=2)
    await service.delete("7", actor=2)
    await service.delete(7)
    await service.page(TaskFilter(status="unknown"))
    (await service.get(7)).deleted
    TaskCreate(project_id=1, title="A task", created_by_id=2)
"""


async def _mypy(folder: Path, snippet: str) -> list[tuple[int, str]]:
    """The lines of errors and their codes, under the project's own settings."""
    file = folder / "snippet.py"
    file.write_text(snippet)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml")),
        *("--no-error-summary", "--hide-error-context", "--cache-dir", str(folder / "cache"), str(file)),
        stdout=asyncio.subprocess.PIPE,
        cwd=ROOT,
    )
    out, _ = await process.communicate()
    told = [line.split(":", 2) for line in out.decode().splitlines() if ": error:" in line]
    return [(int(number), message.rpartition("[")[2].rstrip("]")) for _, number, message in told]


async def test_a_forgotten_await_is_an_error_on_its_line(tmp_path: Path) -> None:
    assert await _mypy(tmp_path, SERVICE.replace("{await}", "await ")) == []
    assert await _mypy(tmp_path, SERVICE.replace("{await}", "")) == [
        (9, "return-value"),
        (14, "no-any-return"),
        (14, "attr-defined"),
        (18, "unused-coroutine"),
        (22, "truthy-bool"),
        (29, "attr-defined"),
    ]


async def test_wrong_types_and_names_are_errors_on_their_lines(tmp_path: Path) -> None:
    assert await _mypy(tmp_path, WRONG) == [
        (7, "arg-type"),
        (8, "arg-type"),
        (9, "call-arg"),
        (10, "arg-type"),
        (11, "attr-defined"),
        (12, "call-arg"),
    ]
