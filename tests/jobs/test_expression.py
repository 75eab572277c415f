"""What may be put into parentheses: one expression, whatever its quotes hold."""

import pytest

from jobs.expression import called, why_not_one

ONE = [
    "status = 'deleted'",
    "true",
    "a = ';' AND b = '--' AND c = '/*' AND d = ')'",
    "(a) OR (b)",
    "a = 'it''s'",
    "a = E'it\\'s' OR b = E'\\\\'",
    "a = e'x'\n  'y\\'z'",
    "title ~ '\\d+'",
    "a = $$ ) ; -- $$ AND b = $q$ $$ ' $q$",
    'a = "odd ) ; name""s"',
    "a$b$ = 1",
    "typE'2' = 1",
    "tags[1] = 'a' AND (ARRAY[1, (2)])[1] = 1",
    "NOT EXISTS (SELECT FROM comment WHERE task_id = task.id)",
    "a::text = U&'d\\0061t'",
    "a = $ä€$ ' ) $ä€$",
    "a = 'x$$) OR ($$'",
    "a - -1 > 0",
    "a / 2 > 1 AND b * 2 > 1",
    "a @> '{1}' AND b ->> 'x' = 'y'",
    "line\n=\n1",
]
NOT_ONE = [
    ("", "is empty"),
    (" \n ", "is empty"),
    ("a = 'x\x00'", "NUL"),
    ("true) OR (true", "closes with )"),
    ("1=1; DROP TABLE x", "semicolon"),
    ("true) --", "closes with )"),
    ("true --", "comment"),
    ("a --1", "comment"),
    ("true /*", "comment"),
    ("true /* x */", "comment"),
    ("a +-- b", "comment"),
    ("(true", "no closing )"),
    ("(true]", "closes with ]"),
    ("tags[1", "no closing ]"),
    ("a = 'x", "no closing '"),
    ("a = E'x\\'", "no closing '"),
    ('a = "x', 'no closing "'),
    ("a = $$x", "no closing $$"),
    ("a = $x$ $y$", "no closing $$"),
    ("$$ x", "no closing $$"),
    ("a = $1", "parameter"),
    ("'a' = $$'$$) OR (true", "closes with )"),
    # What PostgreSQL takes for the end of a quote, and another lexer would not.
    ("a = '\\') OR (true OR a = '\\'", "closes with )"),
    ("a = $a€$ ' $a€$ ) OR (true OR a = $a€$ ' $a€$", "closes with )"),
    ("a€E'\\') OR (true OR a = '\\'", "closes with )"),
    ("a = E'x'\n'\\') OR (true OR a = '\\'", "no closing '"),
    ("a = E'x' '\\') OR (true OR a = '\\'", "closes with )"),
    ("a = E'x'\u00a0\n'\\') OR (true OR a = '\\'", "closes with )"),
]


@pytest.mark.parametrize("text", ONE)
def test_one_expression_is_taken(text: str) -> None:
    assert why_not_one(text) is None


@pytest.mark.parametrize(("text", "why"), NOT_ONE)
def test_what_would_leave_the_parentheses_is_refused(text: str, why: str) -> None:
    told = why_not_one(text)
    assert told is not None
    assert why in told
    assert "; " in told, "it says what to do"


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("random() < 0.5", [(None, "random")]),
        ("Random ( ) < 0.5", [(None, "random")]),
        ("app . f\n(1) = 2 AND pg_catalog.now() > a", [("app", "f"), ("pg_catalog", "now")]),
        ('"App"."My ""f"(1)', [("App", 'My "f')]),
        ("lower(upper(a)) = lower(b)", [(None, "lower"), (None, "upper")]),
        ("a IN (1, 2) AND (b)", [(None, "in"), (None, "and")]),
        ("a = 'random()' AND b = $$nextval('x')$$ AND c[(1)] = 2", []),
        ("a < (b) AND x.y > 5", []),
        ("f[1](2)", []),
        ("", []),
    ],
)
def test_what_is_called_is_told_by_its_name(text: str, names: list[tuple[str | None, str]]) -> None:
    assert called(text) == names
