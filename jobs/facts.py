"""What a look at something has found: how it is, and what to do where it is not well."""

from dataclasses import dataclass
from typing import Literal

# A note is worth knowing; a warning will hurt some day; a fault keeps lowtide from its work.
Word = Literal["ok", "note", "warning", "fault"]
NO_FAULT = "That is no fault of an operator's role: what counts is the worker's"


@dataclass(frozen=True)
class Fact:
    about: str
    word: Word
    told: str
    advice: str | None = None  # what to do

    def __str__(self) -> str:
        return self.told if self.advice is None else f"{self.told}. {self.advice}"

    @property
    def of_operator(self) -> "Fact":
        """The same of a role that need not be able to."""
        return Fact(self.about, "note", f"{self.told}. {NO_FAULT}")

    def is_fault_of(self, *subjects: str) -> bool:
        return self.word == "fault" and self.about in subjects
