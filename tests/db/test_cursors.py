"""Cursors: what comes back is what went in, and nothing else does."""

from base64 import urlsafe_b64encode
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from db import cursors
from db.cursors import Position
from db.fields import BIGINT
from db.refusals import InvalidInput

INSTANTS = st.datetimes(timezones=st.just(UTC) | st.just(timezone(timedelta(hours=14))))
POSITIONS = st.builds(Position, INSTANTS, st.integers(1, BIGINT))
HERE = Position(datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=UTC), 42)
ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


@given(position=POSITIONS, of=st.text())
def test_a_cursor_leads_back_to_its_position(position: Position, of: str) -> None:
    assert cursors.decoded(cursors.encoded(position, of=of), of=of) == position


def test_no_character_can_be_another() -> None:
    """Each of the 32, each of the 63 others."""
    whole = cursors.encoded(HERE, of="list")
    for place, standing in enumerate(whole):
        for other in ALPHABET.replace(standing, ""):
            with pytest.raises(InvalidInput, match=r"^cursor: was altered"):
                cursors.decoded(whole[:place] + other + whole[place + 1 :], of="list")


def test_a_cursor_of_another_list_or_filter_is_refused() -> None:
    with pytest.raises(InvalidInput, match="another list or filter"):
        cursors.decoded(cursors.encoded(HERE, of="list a"), of="list b")


@pytest.mark.parametrize("wrong", ["", "a", "ä" * 32, "a" * 31, "a" * 33, "a" * 31 + "=", "a" * 31 + "\n", "!" * 32, 7])
def test_what_is_no_cursor_is_refused(wrong: str) -> None:
    with pytest.raises(InvalidInput, match=r"^cursor: is none") as caught:
        cursors.decoded(wrong, of="list")
    assert caught.value.field == "cursor"


@pytest.mark.parametrize(
    "microseconds", [2**63 - 1, -(2**63), (datetime.max.replace(tzinfo=UTC) - cursors.EPOCH) // cursors.MICROSECOND + 1]
)
def test_a_made_up_instant_that_no_calendar_has_is_refused(microseconds: int) -> None:
    """With the right digest, which anybody can compute."""
    digest = cursors._digest(microseconds, 1, "list")
    made_up = urlsafe_b64encode(cursors.PACKED.pack(microseconds, 1, digest)).decode()
    with pytest.raises(InvalidInput, match=r"^cursor: is none"):
        cursors.decoded(made_up, of="list")
