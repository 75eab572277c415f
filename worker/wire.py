"""What travels through Redis: arq's envelope as UTF-8 JSON, never pickle.

Whoever can write to Redis can put anything there, so reading never raises and never executes: it ends in an Envelope
or in a Rejection that says what is wrong.
"""

import json
import re
from dataclasses import dataclass, field
from typing import Any

MOST_PAYLOAD_BYTES = 32 * 1024 * 1024
# The envelope around the payload: four small fields and their punctuation.
MOST_MESSAGE_BYTES = MOST_PAYLOAD_BYTES + 4096
HEAD_BYTES = 4096
EXCERPT_CHARACTERS = 200
LONGEST_NAME = 200
# arq's milliseconds since 1970, up to the year 9999.
LATEST_MS = 253_402_300_799_999
# The job name of a message that carries no work, only the news that a run is due.
DOORBELL = "lowtide:doorbell"

# Enough of an unreadable message to say which job it was for: `t` before `f`, as arq writes them.
_NAME = re.compile(rb'^\s*\{\s*(?:"t"\s*:\s*[^,"{\[]{1,20},\s*)?"f"\s*:\s*"([^"\\]{1,200})"')


@dataclass(frozen=True)
class Envelope:
    """A readable message. `payload` is JSON text of an object; its fields are not judged here."""

    job: str
    payload: str = field(repr=False)


@dataclass(frozen=True)
class Rejection:
    """A message that can't be taken, and why. `job` is None where not even a name can be read."""

    job: str | None
    message: str
    excerpt: str = field(repr=False)

    def as_error(self) -> dict[str, Any]:
        return {"type": "InvalidEnvelope", "message": self.message, "detail": {"excerpt": self.excerpt}}


class _Unfit(Exception):
    """What is wrong with an envelope, for its sender; with the job's name where the JSON could be read."""

    def __init__(self, why: str, *, job: str | None = None) -> None:
        super().__init__(why)
        self.job = job


def decode(raw: bytes) -> Envelope | Rejection:
    """Read a message. Never raises."""
    try:
        return _envelope(_parsed(raw))
    except _Unfit as exc:
        return Rejection(job=exc.job or _name_in(raw), message=str(exc), excerpt=excerpt(raw))


def reject(head: bytes, why: str) -> Rejection:
    """A rejection for a message of which only the first bytes may be known."""
    return Rejection(job=_name_in(head), message=why, excerpt=excerpt(head))


def excerpt(raw: bytes) -> str:
    """The first 200 characters, escaped: safe in a log, a terminal and jsonb."""
    return (
        raw[: 4 * EXCERPT_CHARACTERS]
        .decode("ascii", "backslashreplace")
        .encode("unicode_escape")
        .decode("ascii")[:EXCERPT_CHARACTERS]
    )


def _parsed(raw: bytes) -> Any:  # noqa: ANN401 - whatever JSON holds
    if len(raw) > MOST_MESSAGE_BYTES:
        raise _Unfit(f"the message has {len(raw)} bytes; a payload may have {MOST_PAYLOAD_BYTES}")
    try:
        return json.loads(raw.decode("utf-8"), parse_constant=_no_constant)
    except RecursionError:
        raise _Unfit("the message is nested too deeply") from None
    except ValueError as exc:  # UnicodeDecodeError and JSONDecodeError are both ValueErrors
        raise _Unfit(f"the message is not UTF-8 JSON: {_short(exc)}") from None


def _envelope(value: Any) -> Envelope:  # noqa: ANN401 - whatever JSON holds
    if not isinstance(value, dict):
        raise _Unfit("the message is not a JSON object")
    job = value.get("f")
    if not isinstance(job, str) or not is_name(job):
        raise _Unfit(f"f, the job's name, is not a string of 1 to {LONGEST_NAME} printable characters")
    if fault := _fault_beside_the_name(value):
        raise _Unfit(fault, job=job)
    try:
        return Envelope(job=job, payload=json.dumps(value["k"], allow_nan=False))
    except (RecursionError, ValueError) as exc:
        raise _Unfit(f"k, the payload, can't be written as JSON: {_short(exc)}", job=job) from None


def _fault_beside_the_name(value: dict[str, Any]) -> str | None:
    if not _is_whole(value.get("t"), or_null=True):
        return "t, the try, is neither null nor a whole number"
    if not _is_whole(value.get("et", 0), or_null=False):
        return "et, the time of enqueueing, is not a whole number of milliseconds since 1970"
    if value.get("a", []) != []:
        return "a, the positional arguments, is not an empty list: the payload's fields go into k"
    return None if isinstance(value.get("k"), dict) else "k, the payload, is not a JSON object"


def is_name(value: object) -> bool:
    """Whether it can be a run's id or a job's name: 1 to 200 printable characters."""
    return isinstance(value, str) and 1 <= len(value) <= LONGEST_NAME and value.isprintable()


def _is_whole(value: object, *, or_null: bool) -> bool:
    if value is None:
        return or_null
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= LATEST_MS


def _no_constant(name: str) -> Any:  # noqa: ANN401 - the signature of json's hook
    raise ValueError(f"{name} is not JSON")


def _name_in(head: bytes) -> str | None:
    found = _NAME.match(head[:HEAD_BYTES])
    name = "" if found is None else found[1].decode("utf-8", "replace")
    return name if is_name(name) else None


def _short(error: Exception) -> str:
    return str(error)[:EXCERPT_CHARACTERS]


def serialize(value: dict[str, Any]) -> bytes:
    """arq's `job_serializer`, for jobs and for results; what JSON does not know is written as its repr."""
    return json.dumps(value, default=repr).encode()


def doorbell(now_ms: int) -> bytes:
    """A message without work: the run that it stands for is in the ledger."""
    return serialize({"t": None, "f": DOORBELL, "a": [], "k": {}, "et": now_ms})
