"""The jobs that this program knows, by the names that callers use."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from jobs.archive_project import ArchiveProject, archive_project
from jobs.create_batch import CreateBatch, create_batch
from jobs.fields import Payload
from jobs.mark_completed import MarkCompleted, mark_completed
from jobs.policies import DEFAULT, Broken, Policy
from jobs.purge_old_deleted import purge_old_deleted
from jobs.purge_payload import PurgeOldDeleted
from jobs.run import Run


@dataclass(frozen=True)
class Job:
    """`perform` returns the run's result; it may have finished the run itself, in the transaction of its change."""

    payload: type[Payload]
    perform: Callable[[Run, Any], Awaitable[dict[str, Any]]]


PAYLOADS: dict[str, type[Payload]] = {
    "create-batch": CreateBatch,
    "mark-completed": MarkCompleted,
    "archive-project": ArchiveProject,
    "purge-old-deleted": PurgeOldDeleted,
}


# The jobs whose runs have a pace, and limits.
PACED = ("purge-old-deleted",)


def jobs(policies: tuple[Policy, ...] = DEFAULT, *, disabled: Mapping[str, Broken] | None = None) -> dict[str, Job]:
    """`disabled` may change meanwhile: each run looks at it as it is then."""
    held_back = {} if disabled is None else disabled
    performers: dict[str, Callable[[Run, Any], Awaitable[dict[str, Any]]]] = {
        "create-batch": create_batch,
        "mark-completed": mark_completed,
        "archive-project": archive_project,
        "purge-old-deleted": partial(purge_old_deleted, policies=policies, disabled=held_back),
    }
    return {name: Job(PAYLOADS[name], perform) for name, perform in performers.items()}
