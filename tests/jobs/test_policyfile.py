"""The policy file: what it means, and what is said of every way in which it can be wrong."""

import os
from datetime import time, timedelta
from pathlib import Path
from typing import Any

import pytest

from jobs.policies import DEFAULT, Hours, Policies, in_words
from jobs.policyfile import MOST_BYTES, PolicyFileBroken, Stated, load

ROOT = Path(__file__).parents[2]
LEAST = {"name": "x", "table": "t", "column": "c", "keep": "90 days"}
JARGON = ("Value error", "Input should", "pydantic", "Traceback", "NoneType", "<class", "{'", "['", "datetime.")
OTHER = '\n[[policy]]\nname = "other"\ntable = "o"\ncolumn = "c"\nkeep = "1 day"\n'


def toml(**keys: str) -> str:
    """A policy with these keys, the values as TOML has them."""
    return "[[policy]]\n" + "".join(f"{key} = {value}\n" for key, value in keys.items())


def policy_with(**keys: str) -> str:
    return toml(**{key: f'"{value}"' for key, value in LEAST.items()} | keys)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "lowtide.toml"


def read(file: Path, text: str) -> Policies:
    file.write_text(text)
    return load(file)


def test_without_a_file_the_built_in_policy_stands() -> None:
    assert load(None) == Policies(DEFAULT)


def test_the_example_loads_and_says_every_key() -> None:
    policies = load(ROOT / "examples" / "lowtide.toml")
    assert policies.broken == ()
    tasks, events = policies.valid
    assert (tasks.target.name, tasks.target.column, tasks.target.where) == (
        "public.task",
        "deleted_at",
        "status = 'deleted'",
    )
    assert (tasks.target.timezone, tasks.timezone) == ("Europe/Berlin", "Europe/Berlin")
    assert (tasks.hours, tasks.max_rows, tasks.max_seconds) == (Hours(time(1), time(5)), 5_000_000, 10_800)
    assert (tasks.max_share, tasks.partitions, tasks.vacuum_share) == (0.6, "drop", 0.1)
    assert (events.target.schema, events.target.table) == ("Analytics", "Event.Log")
    assert (events.target.epoch, events.keep) == ("milliseconds", timedelta(days=13 * 31))


def test_the_page_on_policies_has_every_key_with_its_default() -> None:
    table = (ROOT / "docs" / "policies.md").read_text().split("## The keys")[1].split("\n\n")[1]
    cells = [[cell.strip().strip("`") for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]
    defaults = {
        name: "needed" if field.is_required() else "none" if field.default is None else str(field.default)
        for name, field in Stated.model_fields.items()
    }
    assert {row[0]: row[1] for row in cells} == defaults


def test_what_is_left_out_has_its_default(file: Path) -> None:
    (policy,) = read(file, policy_with()).valid
    assert (policy.schedule, policy.timezone, policy.pace.name, policy.children) == (None, "UTC", "gentle", {})
    assert (policy.max_share, policy.hours, policy.max_rows, policy.max_seconds) == (0.6, None, None, None)
    assert (policy.partitions, policy.vacuum_share, policy.target.where, policy.target.epoch) == (
        "drop",
        0.1,
        None,
        None,
    )


@pytest.mark.parametrize(
    ("keep", "length", "words"),
    [
        ("1 hour", timedelta(hours=1), "1 hour"),
        ("36 hours", timedelta(hours=36), "36 hours"),
        ("24 hours", timedelta(days=1), "1 day"),
        ("1 day", timedelta(days=1), "1 day"),
        ("90 days", timedelta(days=90), "90 days"),
        ("90days", timedelta(days=90), "90 days"),
        ("2 weeks", timedelta(days=14), "14 days"),
        ("1 month", timedelta(days=31), "31 days"),
        ("7 years", timedelta(days=7 * 366), "2,562 days"),
        ("36500 days", timedelta(days=36_500), "36,500 days"),
    ],
)
def test_how_long_rows_are_kept(file: Path, keep: str, length: timedelta, words: str) -> None:
    (policy,) = read(file, policy_with(keep=f'"{keep}"')).valid
    assert (policy.keep, in_words(policy.keep)) == (length, words)


@pytest.mark.parametrize(
    ("table", "schema", "name"),
    [
        ('"task"', "public", "task"),
        ('"app.task"', "app", "task"),
        ('"App.Task"', "App", "Task"),
        ("'\"My.Table\"'", "public", "My.Table"),
        ("'app.\"My.Table\"'", "app", "My.Table"),
        ('\'"a""b".c\'', 'a"b', "c"),
        ('"my table"', "public", "my table"),
        ("'t; DROP TABLE x'", "public", "t; DROP TABLE x"),
        ("'" + "ä" * 31 + "'", "public", "ä" * 31),
    ],
)
def test_names_are_taken_as_they_are_written(file: Path, table: str, schema: str, name: str) -> None:
    (policy,) = read(file, policy_with(table=table)).valid
    assert (policy.target.schema, policy.target.table) == (schema, name)


def test_children_are_named_like_tables(file: Path) -> None:
    children = '{ comment = "delete", "app.invoice" = "block", \'"My.Table"\' = "block" }'
    (policy,) = read(file, policy_with(children=children)).valid
    assert policy.children == {"public.comment": "delete", "app.invoice": "block", 'public."My.Table"': "block"}


def test_hours_may_go_over_midnight(file: Path) -> None:
    (policy,) = read(file, policy_with(hours='"22:30-04:00"')).valid
    assert policy.hours == Hours(time(22, 30), time(4))


@pytest.mark.parametrize(("value", "share"), [("0", 0.0), ("1", 1.0), ("0.25", 0.25), ("false", None)])
def test_vacuum_may_be_left_to_autovacuum(file: Path, value: str, share: float | None) -> None:
    (policy,) = read(file, policy_with(vacuum_share=value)).valid
    assert policy.vacuum_share == share


WRONG: list[tuple[str, str, str]] = [
    # key, its value as TOML, what is said
    ("keep", '"0 days"', '"0 days" would keep nothing; write 1 hour or more'),
    ("keep", '"-5 days"', '"-5 days" is no length of time; write a whole number and its unit'),
    ("keep", '"1.5 days"', '"1.5 days" is no length of time'),
    ("keep", '"NaN days"', '"NaN days" is no length of time'),
    ("keep", '"90"', '"90" is no length of time'),
    ("keep", "90", "90 has no unit; write a whole number and its unit (hours, days, weeks, months or years), such as"),
    ("keep", "nan", "nan has no unit"),
    ("keep", "-inf", "-inf has no unit"),
    ("keep", "true", "true is no text in quotes"),
    ("keep", "[]", "a list is no text in quotes"),
    ("keep", '""', '"" is no length of time'),
    ("keep", '"5 minutes"', '"5 minutes" is no length of time'),
    ("keep", '"36501 days"', '"36501 days" is more than 36,500 days'),
    ("keep", '"100 years"', '"100 years" is more than 36,500 days'),
    ("keep", '"999999999 years"', "is more than 36,500 days"),
    ("keep", '"99999999999999 years"', "is no length of time"),
    ("keep", '"٣ days"', "is no length of time"),
    ("keep", '"90 days\\n"', "is no length of time"),
    ("name", '""', "is empty; write a name"),
    ("name", '"   "', "is empty; write a name"),
    ("name", '"' + "x" * 201 + '"', "has 201 characters; write 200 at most"),
    ("name", '"a\\u0000b"', "holds characters that can't be printed"),
    ("name", '"a\\nb"', "holds characters that can't be printed"),
    ("name", "7", "7 is no text in quotes"),
    ("table", '""', '"" is no name of a table; write "table" or "schema.table"'),
    ("table", '"a.b.c"', '"a.b.c" is no name of a table'),
    ("table", '"a."', '"a." is no name of a table'),
    ("table", '".a"', '".a" is no name of a table'),
    ("table", "'\"a'", "is no name of a table"),
    ("table", "'\"\"'", "is no name of a table"),
    ("table", '" a"', "begins or ends with a space"),
    ("table", '"' + "x" * 64 + '"', "has more than 63 bytes"),
    ("table", '"' + "ä" * 32 + '"', "has more than 63 bytes"),
    ("table", '"a\\u0000"', "holds a NUL character"),
    ("table", '"pg_catalog.pg_class"', "these are tables of PostgreSQL's own"),
    ("table", '"pg_temp.t"', "these are tables of PostgreSQL's own"),
    ("table", '"information_schema.tables"', "these are views of PostgreSQL's own"),
    ("table", '"lowtide.run"', "these are lowtide's own tables"),
    ("table", "1979-05-27", "1979-05-27 is no text in quotes"),
    ("column", '""', "is no name of a column"),
    ("column", '"a.b"', "is no name of a column"),
    ("column", '"' + "x" * 64 + '"', "has more than 63 bytes"),
    ("schedule", '"30 2 * *"', "has 4 fields instead of 5; write minute, hour, day, month and weekday"),
    ("schedule", '"0 30 2 * * *"', "has 6 fields instead of 5"),
    ("schedule", '"61 2 * * *"', "has a minute that can't be"),
    ("schedule", '"0 0 30 2 *"', "has a day-of-month that can't be"),
    ("schedule", '"* * * * MOON"', "has a day-of-week that can't be"),
    ("schedule", '"1#2/3 * * * *"', "can't be"),
    ("schedule", '"* * * * 1#2/3"', "can't be"),
    ("schedule", '"* * L/L * *"', "can't be"),
    ("schedule", '"' + "9" * 5000 + ' * * * *"', "can't be"),
    ("schedule", '"@daily"', "has 1 fields instead of 5"),
    ("schedule", "true", "true is no text in quotes"),
    ("timezone", '"Mars/Olympus"', '"Mars/Olympus" is no timezone that is known here; write a name of the tz database'),
    ("timezone", '""', "is no timezone"),
    ("timezone", '"America"', "is no timezone"),
    ("timezone", '"CET"', '"CET" is winter time all the year to PostgreSQL; write a name of the tz database'),
    ("timezone", '"../../etc/passwd"', "is no timezone"),
    ("timezone", '"/etc/passwd"', "is no timezone"),
    ("timezone", '"a\\u0000"', "is no timezone"),
    ("timezone", '"' + "x" * 5000 + '"', "is no timezone"),
    ("timezone", '"ä"', "is no timezone"),
    ("pace", '"wild"', '"wild" is not known; write "gentle" or "full"'),
    ("pace", "1", '1 is not known; write "gentle" or "full"'),
    ("epoch", '"hours"', '"hours" is not known; write "seconds" or "milliseconds" or "microseconds"'),
    ("partitions", "true", 'true is not known; write "drop" or "delete"'),
    ("max_share", "1.01", "1.01 is no share; write one above 0 and up to 1, such as 0.6 for 60 %"),
    ("max_share", "60", "60 is no share"),
    ("max_share", "0", "0 is no share"),
    ("max_share", "-0.1", "-0.1 is no share"),
    ("max_share", "nan", "nan is no share"),
    ("max_share", "inf", "inf is no share"),
    ("max_share", "true", "true is no number"),
    ("max_share", '"0.6"', '"0.6" is no number'),
    ("max_share", "9" * 400, "a number of more than 60 digits is no share"),
    ("max_rows", "0x" + "f" * 5000, "a number of more than 60 digits is no limit"),
    ("keep", "0x" + "f" * 5000, "a number of more than 60 digits has no unit"),
    ("vacuum_share", "true", "true is no number; write a share from 0 to 1, such as 0.1 for 10 %, or false for never"),
    ("vacuum_share", "-0.1", "-0.1 is no share"),
    ("vacuum_share", "2", "2 is no share"),
    ("max_rows", "0", "0 is no limit; write a whole number from 1 to"),
    ("max_rows", "-1", "-1 is no limit"),
    ("max_rows", "1.5", "1.5 is no limit"),
    ("max_rows", "true", "true is no limit"),
    ("max_rows", "9223372036854775808", "is no limit"),
    ("max_seconds", "1_000_000_001", "is no limit"),
    ("hours", '"01:00-01:00"', '"01:00-01:00" begins when it ends'),
    ("hours", '"01:00"', '"01:00" is no stretch of the day; write when it begins and ends, such as "01:00-05:00"'),
    ("hours", '"1:00-5:00"', "is no stretch of the day"),
    ("hours", '"01:00-24:00"', "is no stretch of the day"),
    ("hours", '"01:60-02:00"', "is no stretch of the day"),
    ("hours", "01:00:00", "01:00:00 is no text in quotes"),
    ("children", '"comment"', '"comment" is no table of names; write what becomes of each table'),
    ("children", '{ comment = "purge" }', '"comment" is "purge" and not known; write "delete" or "block"'),
    ("children", "{ comment = true }", '"comment" is true and not known; write "delete" or "block"'),
    (
        "children",
        '{ app.comment = "delete" }',
        '"app" is read as a table of its own; put a name with a schema in quotes',
    ),
    ("children", '{ comment = "delete", "public.comment" = "block" }', "public.comment is declared twice"),
    ("children", '{ "a.b.c" = "delete" }', '"a.b.c" is no name of a table'),
    ("where", '""', "is empty; leave the key out, or write a condition"),
    ("where", "true", "true is no text in quotes; write a condition in SQL"),
    ("where", '"true) OR (true"', "closes with ) what was not opened in it"),
    ("where", '"1=1; DROP TABLE x"', "holds a semicolon"),
    ("where", '"true) --"', "closes with ) what was not opened in it"),
    ("where", '"true --"', "holds a comment"),
    ("where", '"true /* "', "holds a comment"),
    ("where", "'a = $$x'", "has no closing $$"),
    ("zzz", '"90 days"', "is not known; known are name, table, column, keep"),
    ("colum", '"c"', "is not known; did you mean column?"),
    ("days", "90", "is not known"),
]


@pytest.mark.parametrize(("key", "value", "said"), WRONG, ids=[f"{key}={value[:30]}" for key, value, _ in WRONG])
def test_what_is_wrong_disables_its_policy_alone_and_says_what_to_write(
    file: Path, key: str, value: str, said: str
) -> None:
    policies = read(file, policy_with(**{key: value}) + OTHER)
    assert [policy.name for policy in policies.valid] == ["other"]
    (broken,) = policies.broken
    assert broken.name == ("number 1" if key == "name" else "x")
    assert broken.reason.startswith((f"{key}: ", f'"{key}": '))
    assert said in broken.reason
    assert len(broken.reason) < 500
    assert not [word for word in JARGON if word in broken.reason]
    assert broken.reason.isprintable()


@pytest.mark.parametrize("key", LEAST)
def test_a_key_that_every_policy_needs_is_missed(file: Path, key: str) -> None:
    (broken,) = read(file, toml(**{each: f'"{value}"' for each, value in LEAST.items() if each != key})).broken
    assert broken.reason == f"{key}: is missing; every policy has name, table, column and keep"


def test_every_fault_of_a_policy_is_told_at_once(file: Path) -> None:
    (broken,) = read(file, policy_with(keep="90", pace='"wild"', colum='"c"')).broken
    assert [fault.partition(":")[0] for fault in broken.reason.split("; ") if ": " in fault] == [
        "keep",
        "pace",
        '"colum"',
    ]


def test_two_policies_of_one_name_are_both_disabled(file: Path) -> None:
    policies = read(file, policy_with() + policy_with(table='"u"') + OTHER)
    assert [policy.name for policy in policies.valid] == ["other"]
    assert {broken.reason for broken in policies.broken} == {
        "name: policies 1 and 2 of the file have it; give each a name of its own"
    }
    assert policies.disabled().keys() == {"x"}


def test_a_policy_is_not_disabled_by_one_without_a_name_that_is_called_the_same(file: Path) -> None:
    policies = read(file, policy_with(name='"number 2"') + '[[policy]]\ntable = "u"\n')
    assert [policy.name for policy in policies.valid] == ["number 2"]
    assert [(broken.name, broken.is_named) for broken in policies.broken] == [("number 2", False)], "it is told"
    assert policies.disabled() == {}


def test_a_name_that_a_broken_policy_has_is_taken_too(file: Path) -> None:
    policies = read(file, policy_with() + policy_with(keep="1"))
    assert policies.valid == ()


@pytest.mark.parametrize(("where", "same"), [("", True), ('where = "a > 1"\n', False)])
def test_the_same_rows_declared_twice_are_refused(file: Path, where: str, same: bool) -> None:
    policies = read(file, policy_with() + policy_with(name='"y"', table='"public.t"', keep='"5 days"') + where)
    if same:
        assert policies.valid == ()
        assert "x (number 1) and y (number 2) have the same table, column and where" in policies.broken[0].reason
    else:
        assert policies.broken == ()


def test_a_schedule_leaves_room_in_its_runs_ids(file: Path) -> None:
    assert read(file, policy_with(name='"' + "x" * 200 + '"')).broken == ()
    (broken,) = read(file, policy_with(name='"' + "x" * 171 + '"', schedule='"30 2 * * *"')).broken
    assert "170 characters" in broken.reason


BROKEN_FILES: list[tuple[str, bytes, str]] = [
    ("empty", b"", "has no policy; write at least"),
    ("only a comment", b"# nothing\n", "has no policy; write at least"),
    ("no policy in the list", b"policy = []", "has no policy; write at least"),
    ("not TOML", b'\n[[policy]]\nname = "x\n', "is not TOML: line 3, column"),
    (
        "a key twice",
        b'[[policy]]\nname = "x"\nname = "y"\n',
        "is not TOML: line 3, column 11 declares something for the",
    ),
    ("a list that never ends", b"policy = [", "is not TOML: its end can't be read"),
    ("deeply nested", b"a = " + b"[" * 100_000, "is not TOML that can be read"),
    ("a number without end", b"a = " + b"9" * 10_000, "is not TOML"),
    ("JSON", b'{"policy": []}', "is not TOML: line 1, column 1 can't be read"),
    ("binary", b"\x7fELF\x00\xff", "line 1 is not UTF-8"),
    ("not UTF-8", b'# \n[[policy]]\nname = "\xe4"', "line 3 is not UTF-8"),
    ("10 MB", b"# " + b"x" * 10_000_000, "has more than 1,000,000 bytes"),
    ("one byte too much", b"#" * (MOST_BYTES + 1), "has more than 1,000,000 bytes"),
    ("unknown at the top", b'days = 5\n[[policy]]\nname = "x"', 'has "days" outside of a policy'),
    ("one pair of brackets", b'[policy]\nname = "x"', "each policy begins with a line [[policy]]"),
    ("policies that are none", b"policy = [1]", "each policy begins with a line [[policy]]"),
    ("policies by name", b'[policies.x]\ntable = "t"', 'has "policies" outside of a policy'),
]


@pytest.mark.parametrize(
    ("content", "said"), [case[1:] for case in BROKEN_FILES], ids=[case[0] for case in BROKEN_FILES]
)
def test_a_file_that_is_wrong_as_a_whole_is_refused(file: Path, content: bytes, said: str) -> None:
    file.write_bytes(content)
    with pytest.raises(PolicyFileBroken) as caught:
        load(file)
    assert str(caught.value).startswith(f"policy file {file}")
    assert said in str(caught.value)
    assert not [word for word in JARGON if word in str(caught.value)]


def test_a_file_that_can_not_be_read_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    cases: dict[Any, str] = {
        tmp_path / "nothing": "can't be read: no such file or directory; see LOWTIDE_POLICIES",
        tmp_path: "is a folder; name the file",
        tmp_path / "pipe": "is no ordinary file",
        tmp_path / "file" / "x": "can't be read: not a directory",
        tmp_path / "loop": "can't be read: too many levels of symbolic links",
        tmp_path / ("x" * 1000): "can't be read: file name too long",
        Path("a\x00b"): "is no path of a file",
    }
    for path, said in cases.items():
        with pytest.raises(PolicyFileBroken, match=said):
            load(path)


def test_a_byte_order_mark_and_lines_of_windows_are_no_fault(file: Path) -> None:
    file.write_bytes(b"\xef\xbb\xbf" + policy_with().replace("\n", "\r\n").encode())
    assert [policy.name for policy in load(file).valid] == ["x"]


def test_the_names_of_lowtides_own_policies_are_taken(file: Path) -> None:
    policies = read(file, policy_with(name='"lowtide-runs"') + OTHER)
    assert [policy.name for policy in policies.valid] == ["other"]
    assert "lowtide cleans its own tables under the names lowtide-runs, " in policies.broken[0].reason
