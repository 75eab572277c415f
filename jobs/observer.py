"""Who is told of what happens to runs: the hooks that metrics hang on. Told after the fact, never asked."""

from typing import Protocol


class Observer(Protocol):
    """Called from the event loop, in the middle of the work: takes microseconds, waits for nothing, never raises.

    One that dies with its process has seen no more than that process did; the ledger has the rest.
    """

    def batch_committed(self, job: str, *, rows: int, seconds: float | None) -> None:
        """Rows were changed for good. Without `seconds`: by batches of which no answer came, found in the ledger."""

    def waited(self, reason: str) -> None:
        """A run has begun to wait. `reason` is the ledger's sentence, which may name servers and tables."""

    def run_ended(self, job: str, state: str) -> None:
        """A run has come to its final state here."""


class Nobody:
    """Nobody looks."""

    def batch_committed(self, job: str, *, rows: int, seconds: float | None) -> None:
        pass

    def waited(self, reason: str) -> None:
        pass

    def run_ended(self, job: str, state: str) -> None:
        pass


NOBODY = Nobody()
