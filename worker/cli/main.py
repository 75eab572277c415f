"""The command `lowtide`: its sub-commands, and what each kind of failure prints and exits with."""

import asyncio
import os
import re
import socket
import sys
from importlib.metadata import version
from itertools import pairwise
from typing import Annotated

import asyncpg
import typer
from redis.exceptions import RedisError
from sqlalchemy.exc import DBAPIError

from db.faults import UnfitPayload, server_message, sqlstate
from db.holds import WrongHold
from db.migrate import NewerLedger
from db.tasktables import MisfitTables
from jobs.failures import AWAY, LOCKED, Refused, is_passing
from jobs.policyfile import PolicyFileBroken
from worker import telemetry
from worker.cli import (
    audit,
    check,
    demo,
    dev,
    enqueue,
    explain,
    hold,
    migrate,
    output,
    plan,
    policies,
    runs,
    schedules,
    steer,
    work,
)
from worker.cli.ask import NobodyToAsk
from worker.cli.demo import WrongEndState
from worker.cli.follow import Detached, NoSuchRun
from worker.cli.steer import NotToBeSteered
from worker.embedded import EmbeddedError
from worker.process import NotMigrated, Unreachable
from worker.settings import WrongSettings

FAILED, USAGE, UNREACHABLE, INTERRUPTED = 1, 2, 3, 130
# Typer brings its own copy of click, whose errors it does not export: BadParameter is the one that it does.
USAGE_ERROR: type[Exception] = typer.BadParameter.__mro__[1]
NO_RIGHT = "42501"
# What the server says of it has no schema: these are names of schema lowtide's own.
OURS = re.compile(
    r"permission denied for (schema lowtide|table (run|plan|hold|audit|migration|paused_schedule|detaching)"
    r"|function (lowtide\.)?(enqueue|accept|hold_key|added))$"
)
EXIT_CODES: tuple[tuple[tuple[type[Exception], ...], int], ...] = (
    ((Detached,), INTERRUPTED),
    ((Unreachable, RedisError), UNREACHABLE),
    ((WrongSettings, PolicyFileBroken, WrongHold, NobodyToAsk, UnfitPayload, USAGE_ERROR), USAGE),
    (
        (
            Refused,
            NewerLedger,
            NotMigrated,
            MisfitTables,
            NoSuchRun,
            NotToBeSteered,
            EmbeddedError,
            WrongEndState,
        ),
        FAILED,
    ),
)

PATHS = ("--payload-file", "--folder")

app = typer.Typer(
    help="Keeps PostgreSQL data tidy without making waves: bulk create, mark, archive and purge in short batches.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
for command in (
    demo.demo,
    dev.dev,
    migrate.migrate,
    work.worker,
    enqueue.enqueue,
    policies.policies,
    check.check,
    explain.explain,
    runs.runs,
    runs.show,
    steer.pace,
    steer.pause,
    steer.resume,
    steer.cancel,
    steer.retry,
    plan.plan,
    plan.approve,
    audit.audit,
):
    app.command()(command)


app.add_typer(schedules.app, name="schedules")
app.add_typer(hold.app, name="hold")


def _print_version(wanted: bool) -> None:
    if wanted:
        output.print_lines(f"lowtide {version('lowtide')}")
        raise typer.Exit


@app.callback()
def _top(
    _: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    telemetry.configure()


def main() -> None:
    """Run a command; every way out is one of the exit codes that the contract names."""
    try:
        _require_text(sys.argv[1:])
        sys.exit(app(standalone_mode=False) or 0)
    except (KeyboardInterrupt, asyncio.CancelledError, typer.Abort):
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        sys.exit(FAILED)
    except Exception as exc:
        code = _exit_code(exc)
        if code is None:
            raise
        _tell(exc)
        sys.exit(code)


def _require_text(arguments: list[str]) -> None:
    """Ids, names and reasons are stored as text. A path is whatever the system takes."""
    for before, given in pairwise(["", *arguments]):
        try:
            given.encode()
        except UnicodeEncodeError:
            if not given.startswith(PATHS) and before not in PATHS:
                raise typer.BadParameter(f"{os.fsencode(given)!r} is not UTF-8, as all that is stored is") from None


def _exit_code(error: Exception) -> int | None:
    """None for what we did not foresee: then the traceback is the message."""
    for kinds, code in EXIT_CODES:
        if isinstance(error, kinds):
            return code
    state = sqlstate(error)
    if isinstance(error, OSError) and not isinstance(error, ConnectionError | TimeoutError | socket.gaierror):
        return FAILED  # a file or a folder
    if is_passing(error) and (state is None or state.startswith(AWAY)):
        return UNREACHABLE
    return FAILED if isinstance(error, DBAPIError | asyncpg.PostgresError) else None


def _tell(error: Exception) -> None:
    """The message, and with --json on stdout too, where a program looks for it."""
    formatted = getattr(error, "format_message", None)  # of a usage error: with the option's name
    said = server_message(error) if formatted is None else formatted().replace("Input should be", "it must be")
    if sqlstate(error) == NO_RIGHT and OURS.search(said):
        said = (
            f"{said}. That is lowtide's own: docs/roles.sql makes the group lowtide_operator, which has the rights; "
            "then GRANT lowtide_operator TO the login that LOWTIDE_DATABASE_URL names"
        )
    if sqlstate(error) == LOCKED:
        said = f"others hold locks on what this needs; try again ({said})"
    if not said:  # a bare `lowtide` has printed its help
        return
    if "--json" in sys.argv:
        output.print_json({"error": {"type": type(error).__name__, "message": said}})
    else:
        output.say(f"lowtide: {said}")


if __name__ == "__main__":
    main()
