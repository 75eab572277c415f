"""Cursors of keyset pages: where a page ended, as text that a caller hands back.

A cursor is no secret and no right. One that somebody makes up can only give another position in a list that they may
read anyway, and its values are bound like all others. So a digest will do, with no key: it finds what was altered on
the way, and what belongs to another list or another filter.
"""

import hashlib
import re
import struct
from base64 import urlsafe_b64decode, urlsafe_b64encode
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from db.refusals import InvalidInput

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
# Microseconds, id, digest: 24 bytes are 32 characters with no bit to spare, so that no two texts are one cursor.
PACKED = struct.Struct(">qq8s")
SHAPE = re.compile(r"[A-Za-z0-9_-]{32}")


class Position(NamedTuple):
    """The place of a row in a list that is ordered by an instant, then by id."""

    instant: datetime
    id: int


def encoded(position: Position, *, of: str) -> str:
    """`of` says which list it is, with which filter."""
    microseconds = (position.instant - EPOCH) // MICROSECOND
    return urlsafe_b64encode(PACKED.pack(microseconds, position.id, _digest(microseconds, position.id, of))).decode()


def decoded(cursor: str, *, of: str) -> Position:
    """Raises InvalidInput for what is not a cursor of this list and this filter."""
    if type(cursor) is not str or SHAPE.fullmatch(cursor) is None:
        raise InvalidInput("cursor", "is none: take `next_cursor` of the page before as it is, or begin without one")
    microseconds, number, digest = PACKED.unpack(urlsafe_b64decode(cursor))
    if digest != _digest(microseconds, number, of):
        raise InvalidInput("cursor", "was altered, or is of another list or filter: begin again without one")
    try:
        return Position(EPOCH + microseconds * MICROSECOND, number)
    except OverflowError:  # made up: the digest is right, and no calendar has that instant
        raise InvalidInput("cursor", "is none: its point in time lies outside of the years 1 to 9999") from None


def _digest(microseconds: int, number: int, of: str) -> bytes:
    return hashlib.blake2b(f"{microseconds} {number} {of}".encode(), digest_size=8).digest()
