"""archive-project: closes a project and archives its tasks.

Changes: the project's archived_at, then status and updated_at of every task of it that is not deleted. Closing comes
first and commits by itself: it waits for inserts in flight, and from then on no task enters. Running again takes
leftovers (a task restored meanwhile) and succeeds. It never touches a deleted task or another project.
"""

from typing import Any

from db import leases, projects, tasks
from db.fields import Id
from jobs.failures import NotAllowed, NotFound
from jobs.fields import Payload
from jobs.run import Run
from jobs.sweep import sweep
from jobs.window import BY_INDEX, Window

MOST_PASSES = 5
BEFORE_ALL = -(2**63)


class ArchiveProject(Payload):
    project_id: Id
    requested_by: Id


async def archive_project(run: Run, payload: ArchiveProject) -> dict[str, Any]:
    if "after" not in run.cursor:
        await _close(run, payload)
    for _ in range(MOST_PASSES):
        await sweep(run, Ids(payload.project_id))
        async with run.transaction() as session:
            if await tasks.count_to_archive(session, payload.project_id) == 0:
                result = {"archived": run.rows_done}
                await run.succeed(session, result)
                return result
        run.cursor = {"after": BEFORE_ALL}  # a task was restored behind the walk
    return {"archived": run.rows_done, "remaining": True}


async def _close(run: Run, payload: ArchiveProject) -> None:
    """From the commit on, no task enters the project."""
    async with run.transaction() as session:
        project = await projects.close_to_inserts(session, payload.project_id)
        if project is None:
            raise NotFound(f"project {payload.project_id} does not exist")
        if project.owner_id != payload.requested_by:
            raise NotAllowed(
                f"worker {payload.requested_by} may not archive project {payload.project_id}: only its owner may"
            )
        await projects.archive(session, payload.project_id)
        await leases.advance(session, run.claim, cursor={"after": BEFORE_ALL})
    run.cursor = {"after": BEFORE_ALL}
    async with run.transaction() as session:  # with no lock on the project: others' inserts would wait for the count
        expected = await tasks.count_to_archive(session, payload.project_id)
        await leases.advance(session, run.claim, cursor=run.cursor, rows_expected=expected)


class Ids:
    """Ranges of ids over the index on (project_id, id). The lower bound moves on, so no dead entry is read again."""

    first, largest = 100, 10_000
    among_locks = False
    settings = BY_INDEX

    def __init__(self, project_id: int) -> None:
        self._project_id = project_id

    async def windows(self, run: Run, size: int, *, most: int) -> list[Window]:  # noqa: ARG002 - Way's: one at a time
        after = int(run.cursor["after"])
        async with run.database.autocommit() as connection:
            last = await tasks.last_of_range(connection, self._project_id, after=after, most=size)
        if last is None:
            return []
        change = tasks.archive_range(self._project_id, after=after, last=last)
        return [Window(change, cursor={"after": last}, units=size)]
