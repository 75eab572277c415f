"""The wire: whatever the bytes are, reading them ends in an Envelope or in a Rejection."""

import json
import pickle
from pathlib import Path
from typing import Any

import pytest

from worker import wire
from worker.wire import Envelope, Rejection, decode

GOOD: dict[str, Any] = {"t": None, "f": "mark-completed", "a": [], "k": {"x": 1}, "et": 1_700_000_000_000}


def message(**others: Any) -> bytes:
    return json.dumps(GOOD | others).encode()


def test_an_envelope_as_arq_writes_it_is_read() -> None:
    assert decode(message()) == Envelope(job="mark-completed", payload='{"x": 1}')


def test_fields_that_arq_adds_by_default_may_be_left_out() -> None:
    assert decode(b'{"f": "j", "k": {}}') == Envelope(job="j", payload="{}")


UNREADABLE: dict[str, tuple[bytes, str | None]] = {
    "nothing": (b"", None),
    "truncated": (message()[:-10], "mark-completed"),
    "truncated before the name": (b'{"t": null, "f": "mark', None),
    "nested 50,000 deep": (b'{"t": null, "f": "j", "a": [], "k": ' + b'{"k":' * 50_000, "j"),
    "nested lists": (b"[" * 50_000, None),
    "not UTF-8": (b'{"f": "j", "k": {"x": "\xff"}}', "j"),
    "a list": (b"[]", None),
    "a number": (b"7", None),
    "NaN": (b'{"f": "j", "k": {"x": NaN}}', "j"),
    "a number of 5,000 digits": (b'{"f": "j", "k": {"x": ' + b"9" * 5000 + b"}}", "j"),
    "f is a list": (message(f=["j"]), None),
    "f is an object": (message(f={"j": 1}), None),
    "f is a number": (message(f=7), None),
    "f is empty": (message(f=""), None),
    "f is too long": (message(f="j" * 201), None),
    "f has a control character": (message(f="a\nb"), None),
    "f is missing": (b'{"k": {}}', None),
    "t is a string": (message(t="1"), "mark-completed"),
    "t is a list": (message(t=[]), "mark-completed"),
    "t is true": (message(t=True), "mark-completed"),
    "t is negative": (message(t=-1), "mark-completed"),
    "et is a string": (message(et="now"), "mark-completed"),
    "et is null": (message(et=None), "mark-completed"),
    "et is 1e30": (message(et=1e30), "mark-completed"),
    "et is a float": (message(et=1.5), "mark-completed"),
    "et is true": (message(et=True), "mark-completed"),
    "et is negative": (message(et=-1), "mark-completed"),
    "et is far too late": (message(et=10**18), "mark-completed"),
    "a is not empty": (message(a=[1]), "mark-completed"),
    "a is null": (message(a=None), "mark-completed"),
    "a is an object": (message(a={}), "mark-completed"),
    "k is a list": (message(k=[]), "mark-completed"),
    "k is null": (message(k=None), "mark-completed"),
    "k is missing": (b'{"f": "j"}', "j"),
    "k is wrong and stands before f": (b'{"k": [], "f": "j"}', "j"),
    "k holds a number beyond a double": (b'{"f": "j", "k": {"x": 1e400}}', "j"),
    "f has an escape and k is wrong": (b'{"f": "caf\\u00e9", "k": 1}', "café"),
    "f is half a surrogate pair": (message(f="a\ud800b"), None),
    "f has a character that turns text around": (message(f="a\u202eb"), None),
    "too large": (message(k={"x": "x" * wire.MOST_MESSAGE_BYTES}), "mark-completed"),
}


@pytest.mark.parametrize(("raw", "job"), UNREADABLE.values(), ids=UNREADABLE.keys())
def test_what_can_not_be_read_is_a_rejection_with_the_job_where_one_is_named(raw: bytes, job: str | None) -> None:
    found = decode(raw)

    assert isinstance(found, Rejection)
    assert found.job == job
    assert found.message
    assert len(found.excerpt) <= 200
    assert found.excerpt.isascii()
    assert found.excerpt.isprintable()
    assert found.as_error()["type"] == "InvalidEnvelope"


@pytest.mark.parametrize("cut", range(len(message())))
def test_a_message_cut_anywhere_is_a_rejection(cut: int) -> None:
    assert isinstance(decode(message()[:cut]), Rejection)


def test_every_byte_in_place_of_every_other_is_read_without_an_error() -> None:
    """Control: `json.loads` in place of `decode` raises."""
    raw = message()
    found = [decode(raw[:at] + bytes([byte]) + raw[at + 1 :]) for at in range(len(raw)) for byte in range(256)]
    assert {type(one) for one in found} == {Envelope, Rejection}


def test_an_excerpt_shows_the_first_bytes_and_nothing_that_a_terminal_obeys() -> None:
    assert wire.excerpt(b'{"f": "\x1b[31m\xff\n\x00') == '{"f": "\\x1b[31m\\\\xff\\n\\x00'


@pytest.mark.parametrize("raw", [b"x" * 201, b"\xff" * 1000, b"\x00" * 1000, b"\\" * 1000])
def test_an_excerpt_has_at_most_200_characters(raw: bytes) -> None:
    assert len(wire.excerpt(raw)) == 200


@pytest.mark.parametrize(("length", "taken"), [(0, False), (1, True), (200, True), (201, False)])
def test_a_name_has_1_to_200_characters(length: int, taken: bool) -> None:
    assert wire.is_name("☂" * length) == taken


@pytest.mark.parametrize(("more", "kind"), [(0, Envelope), (1, Rejection)])
def test_a_message_may_be_as_large_as_a_payload_and_its_envelope(more: int, kind: type) -> None:
    room = wire.MOST_MESSAGE_BYTES - len(message(k={"x": ""}))
    assert type(decode(message(k={"x": "x" * (room + more)}))) is kind


class Dangerous:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_a_pickle_is_not_loaded(tmp_path: Path) -> None:
    loot = tmp_path / "loot"
    raw = pickle.dumps(GOOD | {"k": Dangerous(loot)})

    assert isinstance(decode(raw), Rejection)
    assert not loot.exists()
    pickle.loads(raw)
    assert loot.exists(), "the control: loading it would have made the file"


@pytest.mark.parametrize("title", ["a\x00b", "a\ud800b", "☂"])
def test_what_json_can_say_and_postgresql_can_not_is_left_for_the_ledger_to_judge(title: str) -> None:
    found = decode(message(k={"title": title}))
    assert isinstance(found, Envelope)
    assert json.loads(found.payload) == {"title": title}
    assert found.payload.isascii()


def test_a_doorbell_is_an_envelope_without_work() -> None:
    assert decode(wire.doorbell(1)) == Envelope(job=wire.DOORBELL, payload="{}")


def test_results_with_an_exception_in_them_can_be_written() -> None:
    assert json.loads(wire.serialize({"r": ValueError("x")})) == {"r": "ValueError('x')"}


def test_an_envelope_does_not_show_its_payload() -> None:
    assert "hunter2" not in repr(decode(message(k={"password": "hunter2"})))
