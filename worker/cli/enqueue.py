"""`lowtide enqueue`: one-off work from a terminal."""

import asyncio
import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError

from db import runs
from db.engine import Database
from jobs.catalog import PAYLOADS
from jobs.fields import invalid
from worker import wire
from worker.cli import output, session
from worker.cli.follow import follow, read

JOBS = ", ".join(PAYLOADS)


def enqueue(
    job: Annotated[str, typer.Argument(help=f"One of {JOBS}.")],
    payload: Annotated[str | None, typer.Option(help="The payload, a JSON object.")] = None,
    payload_file: Annotated[str | None, typer.Option(help="A file with the payload; - is standard input.")] = None,
    run_id: Annotated[str | None, typer.Option("--id", help="The run's id; the same id runs once.")] = None,
    not_before: Annotated[str | None, typer.Option(help="When it may start, e.g. 2026-12-24T02:30:00Z.")] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Show progress; exit 0 when it succeeded, 1 if not.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the run as JSON.")] = False,
) -> None:
    """Write a run into the ledger and wake a worker. Prints the run's id."""
    if job not in PAYLOADS:
        raise typer.BadParameter(f"there is no job {job!r}; known: {JOBS}", param_hint="JOB")
    if run_id is not None and not wire.is_name(run_id):
        raise typer.BadParameter("a run id has 1 to 200 printable characters", param_hint="--id")
    checked = _checked(job, _text(payload, payload_file))
    asyncio.run(_enqueue(job, checked, run_id, _instant(not_before), wait=wait, as_json=as_json))


async def _enqueue(
    job: str, payload: str, run_id: str | None, not_before: datetime | None, *, wait: bool, as_json: bool
) -> None:
    settings = session.load()
    async with session.database(settings) as database:
        async with database.sessions.begin() as opened:
            accepted = await runs.enqueue(opened, job=job, payload=payload, run_id=run_id, not_before=not_before)
        if not as_json:
            output.print_lines(accepted)
        due = not_before is None or not_before <= datetime.now(UTC)
        if due and (why := await session.ring(settings, accepted)):
            output.say(f"warning: {why}. The run is in the ledger; a worker finds it at its next tick.")
        await _report(database, accepted, wait=wait, as_json=as_json)


async def _report(database: Database, run_id: str, *, wait: bool, as_json: bool) -> None:
    if wait:
        run = await follow(database, run_id)
        output.say(output.outcome(run))
    elif not as_json:
        return
    else:
        run = await read(database, run_id)
    if as_json:
        output.print_json(output.run_as_json(run))
    if wait and run.state != "succeeded":
        raise typer.Exit(1)


def _text(payload: str | None, payload_file: str | None) -> str:
    if payload is not None and payload_file is not None:
        raise typer.BadParameter("give --payload or --payload-file, not both", param_hint="--payload")
    if payload_file is None:
        return "{}" if payload is None else payload
    try:
        raw = sys.stdin.buffer.read() if payload_file == "-" else Path(payload_file).read_bytes()
        return raw.decode()
    except OSError as exc:
        raise typer.BadParameter(f"{payload_file}: {exc.strerror}", param_hint="--payload-file") from exc
    except UnicodeDecodeError as exc:
        raise typer.BadParameter(f"{payload_file} is not UTF-8: {exc.reason}", param_hint="--payload-file") from exc


def _checked(job: str, text: str) -> str:
    """The payload as compact JSON, once its fields are right: what is wrong ends here, before there is a run."""
    if len(text.encode("utf-8", "replace")) > wire.MOST_PAYLOAD_BYTES:
        raise typer.BadParameter(f"the payload has more than {wire.MOST_PAYLOAD_BYTES} bytes", param_hint="--payload")
    try:
        value = json.loads(text)
        PAYLOADS[job].model_validate(value)
    except ValidationError as exc:
        raise typer.BadParameter(str(invalid(exc)), param_hint="--payload") from exc
    except RecursionError:
        raise typer.BadParameter("the payload is nested too deeply", param_hint="--payload") from None
    except ValueError as exc:
        raise typer.BadParameter(f"the payload is not JSON: {exc}", param_hint="--payload") from exc
    return json.dumps(value)


def _instant(value: str | None) -> datetime | None:
    if value is None:
        return None
    try:
        instant = datetime.fromisoformat(value)
    except ValueError as exc:
        raise typer.BadParameter(f"{value!r} is not an ISO 8601 time", param_hint="--not-before") from exc
    if instant.tzinfo is None:
        raise typer.BadParameter(f"{value!r} has no zone; write {value}Z for UTC", param_hint="--not-before")
    return instant
