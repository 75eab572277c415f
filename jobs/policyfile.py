"""The policy file, lowtide.toml: read and validated as a whole. One policy that is wrong never takes others with it."""

import difflib
import re
import stat
import tomllib
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, PlainValidator, ValidationError

from db.fields import BIGINT
from db.targets import Epoch, Target
from jobs import policyfields as fields
from jobs.pace import BY_NAME, Name
from jobs.policies import DEFAULT, OWN, Broken, Children, Hours, Policies, Policy

OWN_NAMES = [policy.name for policy in OWN]
MOST_BYTES = 1_000_000
# 31 years, as a payload's max_seconds: more would overflow what a duration can hold.
LONGEST_S = 10**9
# A fire time's run is called schedule:NAME:2026-11-25T02:30:00Z, and a run's id has 200 characters at most.
LONGEST_SCHEDULED_NAME = 170
EXAMPLE = """write at least

[[policy]]
name = "old-deleted-tasks"
table = "public.task"
column = "deleted_at"
keep = "90 days\""""
# What tomllib calls them, by its first words.
TWICE = ("Cannot declare", "Cannot overwrite", "Cannot redefine", "Cannot mutate", "Duplicate inline")


class PolicyFileBroken(Exception):
    """The file as a whole can't be used; no policy of it can be told from the others."""


class Stated(BaseModel):
    """One [[policy]] of the file, each key as its reader in jobs/policyfields.py has it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[str, PlainValidator(fields.name)]
    table: Annotated[tuple[str, str], PlainValidator(fields.table)]
    column: Annotated[str, PlainValidator(fields.column)]
    keep: Annotated[timedelta, PlainValidator(fields.keep)]
    schedule: Annotated[str | None, PlainValidator(fields.schedule)] = None
    timezone: Annotated[str, PlainValidator(fields.timezone)] = "UTC"
    pace: Annotated[Name, PlainValidator(fields.one_of(*BY_NAME))] = "gentle"
    where: Annotated[str | None, PlainValidator(fields.where)] = None
    epoch: Annotated[Epoch | None, PlainValidator(fields.one_of("seconds", "milliseconds", "microseconds"))] = None
    children: Annotated[dict[str, Children], PlainValidator(fields.children)] = {}
    max_share: Annotated[float, PlainValidator(fields.share)] = 0.6
    hours: Annotated[Hours | None, PlainValidator(fields.hours)] = None
    max_rows: Annotated[int | None, PlainValidator(fields.at_most(BIGINT))] = None
    max_seconds: Annotated[int | None, PlainValidator(fields.at_most(LONGEST_S))] = None
    partitions: Annotated[Literal["drop", "delete"], PlainValidator(fields.one_of("drop", "delete"))] = "drop"
    vacuum_share: Annotated[float | None, PlainValidator(fields.vacuum_share)] = 0.1

    def policy(self) -> Policy:
        schema, table = self.table
        target = Target(schema, table, self.column, where=self.where, epoch=self.epoch, timezone=self.timezone)
        taken = {name: getattr(self, name) for name in Stated.model_fields if name in Policy.__dataclass_fields__}
        return Policy(**taken | {"target": target, "pace": BY_NAME[self.pace]})


@dataclass
class Entry:
    """One [[policy]] as it was found: `number` is its place in the file, from 1."""

    number: int
    block: dict[str, Any]
    faults: list[str] = field(default_factory=list)
    policy: Policy | None = None

    @property
    def name(self) -> str:
        return self._read("name") or f"number {self.number}"

    @property
    def has_name(self) -> bool:
        return self._read("name") is not None

    @property
    def told(self) -> str:
        """For others: the name alone may be the wrong one."""
        return f"{self.name} (number {self.number})" if self.has_name else self.name

    def broken(self) -> Broken:
        return Broken(self.name, "; ".join(self.faults), self._read("table"), is_named=self.has_name)

    def _read(self, key: str) -> Any:  # noqa: ANN401 - what the key's reader returns
        try:
            return getattr(fields, key)(self.block.get(key))
        except fields.Wrong:
            return None


def load(path: Path | None) -> Policies:
    """The policies of the file; without one, the built-in policy alone. Raises PolicyFileBroken."""
    if path is None:
        return Policies(DEFAULT)
    return read(_parsed(path, _text(path)), called=str(path))


def read(document: dict[str, Any], *, called: str) -> Policies:
    """Raises PolicyFileBroken."""
    entries = [Entry(number, block) for number, block in enumerate(_blocks(document, called), start=1)]
    for entry in entries:
        _validate(entry)
    _refuse_twins(entries)
    _refuse_same_rows(entries)
    return Policies(
        tuple(entry.policy for entry in entries if entry.policy is not None and not entry.faults),
        tuple(entry.broken() for entry in entries if entry.faults),
    )


def _text(path: Path) -> str:
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            told = "is a folder" if path.is_dir() else "is no ordinary file"
            raise PolicyFileBroken(f"policy file {path} {told}; name the file, or set LOWTIDE_POLICIES to it")
        with path.open("rb") as opened:
            raw = opened.read(MOST_BYTES + 1)
    except OSError as exc:
        told = (exc.strerror or type(exc).__name__).lower()
        raise PolicyFileBroken(f"policy file {path} can't be read: {told}; see LOWTIDE_POLICIES") from exc
    except ValueError as exc:  # a NUL in the path
        raise PolicyFileBroken("LOWTIDE_POLICIES is no path of a file") from exc
    if len(raw) > MOST_BYTES:
        raise PolicyFileBroken(f"policy file {path} has more than {MOST_BYTES:,} bytes; that is no list of policies")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        line = raw[: exc.start].count(b"\n") + 1
        raise PolicyFileBroken(f"policy file {path}: line {line} is not UTF-8; save the file as UTF-8") from exc


def _parsed(path: Path, text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as exc:
        at = re.search(r"\(at line (\d+), column (\d+)\)", str(exc))
        where = f"line {at[1]}, column {at[2]}" if at else "its end"
        told = "declares something for the second time" if str(exc).startswith(TWICE) else "can't be read"
        raise PolicyFileBroken(f"policy file {path} is not TOML: {where} {told}") from None
    except (RecursionError, ValueError, OverflowError):  # lists in lists without end, a number of 5,000 digits
        raise PolicyFileBroken(
            f"policy file {path} is not TOML that can be read: too deep, or a number too long"
        ) from None


def _blocks(document: dict[str, Any], called: str) -> list[dict[str, Any]]:
    if unknown := sorted(document.keys() - {"policy"}):
        told = ", ".join(fields.shown(key) for key in unknown)
        raise PolicyFileBroken(
            f"policy file {called} has {told} outside of a policy; the only thing known there is [[policy]]"
        )
    blocks = document.get("policy", [])
    if not isinstance(blocks, list) or not all(isinstance(block, dict) for block in blocks):
        raise PolicyFileBroken(
            f"policy file {called}: each policy begins with a line [[policy]], in two pairs of brackets"
        )
    if not blocks:
        raise PolicyFileBroken(f"policy file {called} has no policy; {EXAMPLE}")
    return blocks


def _validate(entry: Entry) -> None:
    try:
        entry.policy = Stated.model_validate(entry.block).policy()
    except ValidationError as exc:
        found = exc.errors(include_url=False, include_context=False, include_input=False)
        entry.faults += [_said(str(fault["loc"][0]), fault["type"], fault["msg"]) for fault in found]
    else:
        if entry.policy.schedule is not None and len(entry.policy.name) > LONGEST_SCHEDULED_NAME:
            entry.faults.append(f"name: has more than {LONGEST_SCHEDULED_NAME} characters, the most with a schedule")


def _said(key: str, kind: str, message: str) -> str:
    if kind == "missing":
        return f"{key}: is missing; every policy has name, table, column and keep"
    if kind == "extra_forbidden":
        like = difflib.get_close_matches(key, Stated.model_fields, n=1)
        known = f"did you mean {like[0]}?" if like else f"known are {', '.join(Stated.model_fields)}"
        return f"{fields.shown(key)}: is not known; {known}"
    return f"{key}: {message.removeprefix('Value error, ')}"


def _refuse_twins(entries: Iterable[Entry]) -> None:
    """Of two policies with one name, nobody knows which is meant."""
    named = defaultdict(list)
    for entry in entries:
        if entry.has_name:
            named[entry.name].append(entry)
    for twins in named.values():
        numbers = " and ".join(str(entry.number) for entry in twins)
        for entry in twins:
            if len(twins) > 1:
                entry.faults.append(f"name: policies {numbers} of the file have it; give each a name of its own")
            if entry.name in OWN_NAMES:
                entry.faults.append(f"name: lowtide cleans its own tables under the names {', '.join(OWN_NAMES)}")


def _refuse_same_rows(entries: Iterable[Entry]) -> None:
    rules = defaultdict(list)
    for entry in entries:
        if entry.policy is not None:
            target = replace(entry.policy.target, timezone="UTC", epoch=None)
            rules[target].append(entry)
    for twins in rules.values():
        names = " and ".join(entry.told for entry in twins)
        for entry in twins if len(twins) > 1 else ():
            entry.faults.append(f"table: {names} have the same table, column and where: declared twice; keep one")
