"""The door between Redis and the ledger: which messages pass, and what becomes of those that don't.

A message whose run is in the ledger is only its doorbell, whatever it says. Of the others, one that can be read becomes
a run; one of which no more than an id and a job's name can be read becomes a failed run; the rest is removed, logged
and counted.
"""

import json
import math
from typing import Any

import asyncpg
import structlog
from pydantic import ValidationError

from db import calls, runs
from db.faults import UnfitPayload
from jobs.failures import as_error
from jobs.fields import invalid
from jobs.life import Life
from worker import wire
from worker.doorbells import Doorbells, Message, result_message

log = structlog.get_logger()

BY_QUEUE = "queue"


class Inbox:
    """Counts what it has turned away."""

    def __init__(self, life: Life, doorbells: Doorbells) -> None:
        self._life = life
        self._doorbells = doorbells
        self.rejected = 0
        self.removed = 0

    async def passes(self, name: bytes, message: Message) -> bool:
        """Whether arq may see a due id. What can't be a message of ours is dealt with here."""
        run_id = name.decode(errors="replace")
        if not wire.is_name(run_id) or run_id.encode() != name:
            await self._remove(name, "the id is not 1 to 200 printable characters of UTF-8")
            return False
        if message.score is None or message.in_progress:
            return False  # gone since it was listed, or somebody works on it
        if fault := _fault_of(message):
            head = await self._doorbells.head(run_id) if message.kind == "string" else b""
            await self._reject(run_id, wire.reject(head, fault))
            return False
        if message.stuck:
            await self._doorbells.forget_progress(name)
        return True

    async def read(self, run_id: str) -> wire.Envelope | wire.Rejection | None:
        """The message; None where only an id stands in the queue."""
        raw = await self._doorbells.payload(run_id)
        return None if raw is None else wire.decode(raw)

    async def accept(self, run_id: str, message: wire.Envelope, connection: asyncpg.Connection) -> None:
        """Write the message into the ledger. Where the run stands there with another payload, Conflict: it stands."""
        await calls.accept(connection, job=message.job, payload=message.payload, run_id=run_id, requested_by=BY_QUEUE)

    async def turn_away(self, run_id: str, message: wire.Envelope | wire.Rejection | None) -> None:
        """A message whose run is not in the ledger, and can't be."""
        if message is None:
            await self._remove(run_id.encode(), "it has no payload, and the ledger does not know it")
        elif isinstance(message, wire.Rejection):
            await self._reject(run_id, message)
        elif message.job == wire.DOORBELL:
            await self._remove(run_id.encode(), "it is a doorbell for a run that the ledger does not know")
        else:
            await self._refuse(run_id, message)

    async def _refuse(self, run_id: str, message: wire.Envelope) -> None:
        """A payload that jsonb can't hold: PostgreSQL says once more why."""
        try:
            async with self._life.database.autocommit() as connection:
                await self.accept(run_id, message, connection)
        except UnfitPayload as exc:
            raw = await self._doorbells.payload(run_id) or b""
            await self._record(run_id, message.job, self._unfit(message, str(exc), raw))

    def _unfit(self, message: wire.Envelope, told: str, raw: bytes) -> dict[str, Any]:
        """Why jsonb can't hold the payload: the job's own words for its fields where it has some."""
        error: dict[str, Any] = {"type": "InvalidPayload", "message": f"the payload can't be stored: {told}"}
        job = self._life.jobs.get(message.job)
        if job is not None:
            try:
                job.payload.model_validate(json.loads(message.payload))  # JSON mode stops at a lone surrogate
            except ValidationError as exc:
                error = as_error(invalid(exc))
        return error | {"detail": error.get("detail", {}) | {"excerpt": wire.excerpt(raw)}}

    async def _reject(self, run_id: str, rejection: wire.Rejection) -> None:
        """A failed run where a job name can be read, unless the id is a run already: then the message is its bell."""
        async with self._life.database.sessions.begin() as session:
            known = await runs.glance(session, run_id) is not None
        if known:
            await self._doorbells.remove(run_id)
            await self._doorbells.ring([run_id])
        elif rejection.job is None:
            await self._remove(run_id.encode(), rejection.message)
        else:
            await self._record(run_id, rejection.job, rejection.as_error())

    async def _record(self, run_id: str, job: str, error: dict[str, Any]) -> None:
        async with self._life.database.sessions.begin() as session:
            await runs.reject(session, run_id=run_id, job=job, error=error, requested_by=BY_QUEUE)
            glance = await runs.glance(session, run_id)
        self.rejected += 1
        log.warning("message.rejected", run=run_id, job=job, error=error["message"])
        result = None if glance is None else result_message(run_id, glance, queue=self._doorbells.queue)
        await self._doorbells.remove(run_id, result=result)

    async def _remove(self, name: bytes, why: str) -> None:
        self.removed += 1
        log.warning("message.removed", id=wire.excerpt(name), why=why)
        await self._doorbells.remove(name)


def _fault_of(message: Message) -> str | None:
    """What is wrong with a message before its payload is fetched; None when nothing is."""
    if message.score is None or not (math.isfinite(message.score) and message.score > 0):
        return f"the score {message.score} is no time in milliseconds since 1970"
    if message.kind not in {"string", "none"}:
        return f"the payload's key is a {message.kind}, not a string"
    if message.size_bytes > wire.MOST_MESSAGE_BYTES:
        return f"the message has {message.size_bytes} bytes; a payload may have {wire.MOST_PAYLOAD_BYTES}"
    return None
