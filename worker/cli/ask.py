"""Asking before what can't be taken back."""

import sys


class NobodyToAsk(Exception):
    """There is no terminal, and nobody has said --yes."""


def require_somebody(*, yes: bool, about: str) -> None:
    """Raises NobodyToAsk, before anything else is done."""
    if not yes and not sys.stdin.isatty():
        raise NobodyToAsk(f"{about}, and there is no terminal to ask at: add --yes to do it all the same")


def is_agreed(question: str, *, yes: bool) -> bool:
    """Only a yes is one. Typer's own question writes a space to stdout, where results stand."""
    if yes:
        return True
    sys.stderr.write(f"{question} [y/N]: ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in {"y", "yes"}
