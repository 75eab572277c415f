"""What a purge should leave, worked out from the rows of a stage without a line of lowtide's.

A row of the policy's table whose time has come goes, and all that hangs on it by foreign keys that delete, unless one
of those rows, or it itself, is held, or is pointed to by a row that blocks and does not go itself. Then all of it
stays, but for what hangs on another row that goes too: that goes with the other. A row that only those block which go
themselves follows them: so it is asked again, until nothing changes.
"""

from dataclasses import dataclass
from datetime import UTC, timedelta
from functools import cached_property
from zoneinfo import ZoneInfo

from tests.chaos.scenes import HOUR
from tests.chaos.stage import FOREVER, Node, Stage


@dataclass(frozen=True)
class Stays:
    """Why a row stays: by itself, or only for what hangs on it."""

    held: bool
    blocked: bool
    held_below: bool
    blocked_below: bool


class Reference:
    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._delete, self._block, self._null = (self._of_kind(kind) for kind in ("delete", "block", "null"))

    def _of_kind(self, kind: str) -> list[tuple[Node, Node]]:
        stage = self._stage
        return [pair for number, told in stage.kinds.items() if told == kind for pair in stage.pointing[number]]

    @cached_property
    def eligible(self) -> set[Node]:
        return {(0, row) for row in range(len(self._stage.scene.tables[0].rows)) if self._is_eligible(row)}

    def _is_eligible(self, row: int) -> bool:
        values = self._stage.values(0, row)
        a, note = values["a"], values["note"]
        match self._stage.scene.ways.where:
            case None:
                meant = True
            case "{a} <> 1":
                meant = a != 1
            case "{note} IS NULL OR {note} <> 'k'":
                meant = note != "k"
            case _:
                meant = note is not None and a in {0, 2}
        return meant and self._is_over(self._stage.age(self._stage.scene.tables[0].rows[row]))

    def _is_over(self, age: float | None) -> bool:
        if age is None:
            return False
        return age < self._limit

    @cached_property
    def _limit(self) -> int:
        """In the column's units, from the cutoff as the column can have it."""
        column, stage = self._stage.scene.column, self._stage
        if column.epoch is not None:
            return 1 if stage.micros % stage.unit else 0
        if column.type != "timestamp":
            return 0
        first, second = (stage.local.replace(fold=fold).astimezone(UTC) for fold in (0, 1))
        return -max((second - first) // timedelta(microseconds=1), 0) if first == stage.scene.cutoff else 0

    def early(self) -> list[Node]:
        """Eligible rows whose time, as late as a clock without a zone may have meant it, is not before the cutoff."""
        stage = self._stage
        if stage.scene.column.type != "timestamp":
            return []
        return [node for node in self.eligible if self._latest(node[1]) > 0]

    def late(self) -> list[Node]:
        """Rows that are not eligible although their time is more than an hour before the cutoff."""
        stage = self._stage
        if stage.scene.column.type != "timestamp" or stage.scene.ways.where is not None:
            return []
        rows = {(0, row) for row in range(len(stage.scene.tables[0].rows))}
        return [node for node in rows - self.eligible if self._latest(node[1]) < -HOUR]

    def _latest(self, row: int) -> float:
        """How many µs behind the cutoff it may have been meant; 0 for what no clock shows."""
        age = self._stage.age(self._stage.scene.tables[0].rows[row])
        if age is None or age in {FOREVER, -FOREVER}:
            return 0
        zone = ZoneInfo(self._stage.scene.column.timezone)
        wall = self._stage.local.replace(tzinfo=None) + timedelta(microseconds=age)
        meant = [wall.replace(tzinfo=zone, fold=fold).astimezone(UTC) for fold in (0, 1)]
        shown = [each for each in meant if each.astimezone(zone).replace(tzinfo=None, fold=0) == wall.replace(fold=0)]
        behind = [each - self._stage.scene.cutoff for each in shown]
        return max(behind) / timedelta(microseconds=1) if behind else 0

    def closure(self, roots: set[Node]) -> set[Node]:
        """They, and all that goes with them."""
        found = set(roots)
        while more := {child for child, parent in self._delete if parent in found} - found:
            found |= more
        return found

    @cached_property
    def rounds(self) -> list[set[Node]]:
        """Which of the eligible rows go, in the order in which they can."""
        rounds: list[set[Node]] = []
        gone: set[Node] = set()
        while True:
            free = {root for root in self.eligible - gone if not self._kept(root, gone)}
            if not free:
                return rounds
            rounds.append(free)
            gone |= free

    @property
    def first(self) -> set[Node]:
        """Which of them the first run takes as its own, where it meets them one by one."""
        held, blocked = self.at_first
        return self.rounds[0] - held - blocked if self.rounds else set()

    @cached_property
    def going(self) -> set[Node]:
        return set().union(*self.rounds)

    @cached_property
    def gone(self) -> set[Node]:
        return self.closure(self.going)

    def _kept(self, root: Node, gone: set[Node]) -> bool:
        along, before = self.closure({root}), self.closure(gone)
        if any(map(self._stage.is_held, along)):
            return True
        return any(parent in along and child not in along | before for child, parent in self._block)

    def nulled(self, gone: set[Node]) -> set[tuple[Node, int]]:
        """Of which rows which foreign keys are set to NULL."""
        return {
            (child, number)
            for number, kind in self._stage.kinds.items()
            if kind == "null"
            for child, parent in self._stage.pointing[number]
            if parent in gone and child not in gone
        }

    @property
    def at_first(self) -> tuple[set[Node], set[Node]]:
        """The eligible rows that are held, and those that others point to: as a look at them alone has it."""
        pointed = {parent for child, parent in self._block if child != parent}
        return set(filter(self._stage.is_held, self.eligible)), self.eligible & pointed

    @cached_property
    def stays(self) -> list[Stays]:
        """Of each eligible row that stays."""
        return [self._why(root) for root in sorted(self.eligible - self.gone)]

    def _why(self, root: Node) -> Stays:
        along = self.closure({root})
        blocking = [(child, parent) for child, parent in self._block if child not in along | self.gone]
        return Stays(
            held=self._stage.is_held(root),
            blocked=any(parent == root for _, parent in blocking),
            held_below=any(map(self._stage.is_held, along)),
            blocked_below=any(parent in along for _, parent in blocking),
        )
