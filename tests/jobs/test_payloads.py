"""Payloads: wrong ones fail with each field named, change nothing and are not tried again."""

import json
from typing import Any

import asyncpg
import pytest
from pydantic import ValidationError

from jobs.catalog import PAYLOADS
from jobs.fields import invalid
from jobs.life import Life
from tests import people
from tests.ledger import run

TASK = {"title": "t"}
GOOD: dict[str, dict[str, Any]] = {
    "create-batch": {"project_id": 1, "created_by_id": 2, "tasks": [TASK]},
    "mark-completed": {"task_ids": [1], "requested_by": 1},
    "archive-project": {"project_id": 1, "requested_by": 1},
    "purge-old-deleted": {},
}
NOT_IDS = [0, -1, 2**63, True, 1.0, "1", None, [1]]
BAD: list[tuple[str, dict[str, Any], str]] = [
    *[("create-batch", {"project_id": value}, "project_id") for value in NOT_IDS],
    *[("create-batch", {"created_by_id": value}, "created_by_id") for value in NOT_IDS],
    *[("mark-completed", {"task_ids": [5, value]}, "task_ids.1") for value in NOT_IDS],
    *[("mark-completed", {"requested_by": value}, "requested_by") for value in NOT_IDS],
    *[("archive-project", {"project_id": value}, "project_id") for value in NOT_IDS],
    *[(job, {"unknown": 1}, "unknown") for job in GOOD],
    ("create-batch", {"tasks": []}, "tasks"),
    ("create-batch", {"tasks": [TASK] * 100_001}, "tasks"),
    ("create-batch", {"tasks": {"title": "t"}}, "tasks"),
    ("create-batch", {"tasks": [{}]}, "tasks.0.title"),
    ("create-batch", {"tasks": [TASK, {"title": ""}]}, "tasks.1.title"),
    ("create-batch", {"tasks": [{"title": "x" * 501}]}, "tasks.0.title"),
    ("create-batch", {"tasks": [{"title": 7}]}, "tasks.0.title"),
    ("create-batch", {"tasks": [{"title": "a\x00b"}]}, "tasks.0.title"),
    ("create-batch", {"tasks": [{"title": "a\ud800b"}]}, "tasks.0.title"),
    ("create-batch", {"tasks": [TASK | {"description": "x" * 100_001}]}, "tasks.0.description"),
    ("create-batch", {"tasks": [TASK | {"status": "deleted"}]}, "tasks.0.status"),
    ("create-batch", {"tasks": [TASK | {"priority": "urgent"}]}, "tasks.0.priority"),
    ("create-batch", {"tasks": [TASK | {"owner": 1}]}, "tasks.0.owner"),
    ("mark-completed", {"task_ids": []}, "task_ids"),
    ("mark-completed", {"task_ids": list(range(1, 200_002))}, "task_ids"),
    ("mark-completed", {"task_ids": [3, 4, 3]}, "task_ids"),
    ("mark-completed", {"on_invalid": "ignore"}, "on_invalid"),
    ("purge-old-deleted", {"days": 0}, "days"),
    ("purge-old-deleted", {"days": -1}, "days"),
    ("purge-old-deleted", {"days": 36_501}, "days"),
    ("purge-old-deleted", {"days": 90.0}, "days"),
    ("purge-old-deleted", {"days": True}, "days"),
    ("purge-old-deleted", {"dry_run": "yes"}, "dry_run"),
    ("purge-old-deleted", {"dry_run": 1}, "dry_run"),
    ("purge-old-deleted", {"pace": "fast"}, "pace"),
    ("purge-old-deleted", {"max_rows": 0}, "max_rows"),
    ("purge-old-deleted", {"max_seconds": 0}, "max_seconds"),
    ("purge-old-deleted", {"policy": "p", "table": "t"}, "payload"),
    ("purge-old-deleted", {"policy": ""}, "policy"),
]


@pytest.mark.parametrize(
    ("job", "wrong", "field"), BAD, ids=[f"{job}-{field}-{n}" for n, (job, _, field) in enumerate(BAD)]
)
def test_a_wrong_field_is_named(job: str, wrong: dict[str, Any], field: str) -> None:
    with pytest.raises(ValidationError) as caught:
        PAYLOADS[job].model_validate(GOOD[job] | wrong)

    refusal = invalid(caught.value)
    assert refusal.detail is not None
    assert refusal.detail["fields"][0]["field"].startswith(field)
    assert str(refusal).startswith(field)
    for jargon in ("Input should", "Value error", "instance of", "Extra inputs", "Field required", "List should", "{}"):
        assert jargon not in str(refusal)


@pytest.mark.parametrize(
    ("job", "wrong", "told"),
    [
        ("purge-old-deleted", {"days": 0}, "days: must be 1 or more"),
        ("purge-old-deleted", {"days": 36_501}, "days: must be 36,500 or less"),
        ("purge-old-deleted", {"days": "5"}, "days: must be a whole number"),
        ("purge-old-deleted", {"dry_run": 1}, "dry_run: must be true or false"),
        ("purge-old-deleted", {"pace": "fast"}, "pace: must be 'gentle' or 'full'"),
        ("purge-old-deleted", {"policy": ""}, "policy: must have 1 or more characters"),
        ("purge-old-deleted", {"policy": "p", "table": "t"}, "payload: give policy or table, not both"),
        ("purge-old-deleted", {"day": 1}, "day: is not known; leave it out"),
        ("mark-completed", {"task_ids": []}, "task_ids: must have 1 or more items"),
        ("mark-completed", {"task_ids": 7}, "task_ids: must be a list"),
        ("create-batch", {"tasks": [{}]}, "tasks.0.title: is missing"),
        ("create-batch", {"tasks": [7]}, "tasks.0: must be a JSON object"),
        ("create-batch", {"tasks": [{"title": "x" * 501}]}, "tasks.0.title: must have 500 characters at most"),
    ],
)
def test_what_is_wrong_with_it_is_told_in_plain_words(job: str, wrong: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError) as caught:
        PAYLOADS[job].model_validate(GOOD[job] | wrong)
    assert str(invalid(caught.value)) == told


def test_a_payload_that_is_no_object_is_told_so() -> None:
    with pytest.raises(ValidationError) as caught:
        PAYLOADS["purge-old-deleted"].model_validate([])
    assert str(invalid(caught.value)) == "payload: must be a JSON object"


@pytest.mark.parametrize("job", GOOD)
def test_a_right_payload_passes_in_python_and_as_json(job: str) -> None:
    model = PAYLOADS[job]
    assert model.model_validate(GOOD[job]) == model.model_validate_json(json.dumps(GOOD[job]))


def test_the_limits_themselves_are_taken() -> None:
    longest = {"title": "x" * 500, "description": "y" * 100_000}
    most = {
        "create-batch": GOOD["create-batch"] | {"tasks": [longest] + [TASK] * 99_999},
        "mark-completed": {"task_ids": list(range(1, 200_001)), "requested_by": 2**63 - 1},
        "purge-old-deleted": {"days": 36_500},
    }
    for job, payload in most.items():
        model = PAYLOADS[job].model_validate(payload)
        assert model.model_dump(exclude_unset=True).keys() == payload.keys()


def test_of_many_wrong_fields_the_first_twenty_are_named_and_all_are_counted() -> None:
    with pytest.raises(ValidationError) as caught:
        PAYLOADS["create-batch"].model_validate(GOOD["create-batch"] | {"tasks": [{}] * 100})

    refusal = invalid(caught.value)
    assert refusal.detail is not None
    assert refusal.detail["total"] == 100
    assert len(refusal.detail["fields"]) == 20
    assert str(refusal).endswith("and 80 more")


def test_the_value_of_a_wrong_field_is_not_repeated() -> None:
    with pytest.raises(ValidationError) as caught:
        PAYLOADS["purge-old-deleted"].model_validate({"pace": "hunter2", "days": "hunter2"})
    assert "hunter2" not in str(invalid(caught.value))


async def test_a_wrong_payload_ends_as_a_failed_run_that_is_not_tried_again(
    life: Life, sql: asyncpg.Connection
) -> None:
    await people.people(sql)
    await people.tasks(sql)

    ended = await run(life, "mark-completed", task_ids=[1, 0], requested_by=1)

    assert ended.state == "failed"
    assert ended.attempt == 1
    assert ended.error is not None
    assert ended.error["type"] == "InvalidPayload"
    assert ended.error["message"].startswith("task_ids.1: ")
    assert await sql.fetchval("SELECT status FROM task WHERE id = 1") == "pending"
