"""A payload from the command line: read, and refused here when it is wrong, before there is a run."""

import json
import sys
from pathlib import Path

import typer
from pydantic import ValidationError

from jobs.catalog import PAYLOADS
from jobs.fields import invalid
from worker import wire

JOBS = ", ".join(PAYLOADS)


def require_job(job: str) -> None:
    if job not in PAYLOADS:
        raise typer.BadParameter(f"there is no job {job!r}; known: {JOBS}", param_hint="JOB")


def text(payload: str | None, payload_file: str | None) -> str:
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


def checked(job: str, text: str) -> str:
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
