"""Whether a text is one SQL expression that stays inside of the parentheses it is put into.

A first look, without a server, at what a policy's `where` may be. It follows PostgreSQL's lexer (scan.l) as far as
quotes, comments and parentheses go; that the rest is right only the server can say (jobs/inspection.py).
"""

import re
from collections.abc import Iterator

START, MORE = r"A-Za-z_\x80-\U0010ffff", r"A-Za-z0-9_\x80-\U0010ffff"
BLANK, NEWLINE = r"[ \t\n\r\f\v]", r"[\n\r]"
# An identifier swallows the E of `typE'…'` and the $ of `a$b$`. Over a newline, E'…' goes on with its own escapes.
TOKENS = re.compile(
    rf"""
    (?P<escaped>[eE]'(?:[^'\\]|\\.|''|'{BLANK}*{NEWLINE}{BLANK}*')*(?P<escaped_end>')?)
  | (?P<identifier>[{START}][{MORE}$]*)
  | (?P<string>'[^']*(?P<string_end>')?)
  | (?P<quoted>"(?:[^"]|"")*(?P<quoted_end>")?)
  | (?P<dollar>\$(?P<tag>(?:[{START}][{MORE}]*)?)\$(?:.*?(?P<dollar_end>\$(?P=tag)\$)|.*))
  | (?P<parameter>\$[0-9])
  | (?P<comment>--|/\*)
  | (?P<semicolon>;)
  | (?P<opening>[(\[])
  | (?P<closing>[)\]])
    """,
    re.VERBOSE | re.DOTALL,
)
PAIRS = {"(": ")", "[": "]"}
QUOTES = {"escaped": "'", "string": "'", "quoted": '"', "dollar": "$$"}
REFUSED = {
    "comment": "holds a comment; leave it out, and write comments as # lines of the file",
    "semicolon": "holds a semicolon; write one condition, and nothing after it",
    "parameter": "holds a parameter such as $1; write the value itself",
}


def why_not_one(text: str) -> str | None:
    """What keeps it from being one expression, and what to do; None where nothing does."""
    if not text.strip():
        return "is empty; leave the key out, or write a condition, such as \"status = 'deleted'\""
    if "\x00" in text:
        return "holds a NUL character, which PostgreSQL can't read; leave it out"
    awaited: list[str] = []
    for kind, found in _tokens(text):
        if kind in REFUSED:
            return REFUSED[kind]
        if kind in QUOTES and found[f"{kind}_end"] is None:
            return f"has no closing {QUOTES[kind]}; close what was opened"
        if kind == "opening":
            awaited.append(PAIRS[found[0]])
        elif kind == "closing" and (not awaited or awaited.pop() != found[0]):
            return f"closes with {found[0]} what was not opened in it; write one condition with its own pairs"
    return f"has no closing {awaited[-1]}; close what was opened" if awaited else None


def called(text: str) -> list[tuple[str | None, str]]:
    """What stands before an opening parenthesis, as schema (None: without one) and name. Keywords are among them."""
    found: list[tuple[str | None, str]] = []
    names: list[re.Match[str]] = []  # those before, joined by dots
    for kind, token in _tokens(text):
        gap = text[names[-1].end() : token.start()].strip() if names else None
        if kind == "opening" and token[0] == "(" and gap == "":
            schema = _name(names[-2]) if len(names) > 1 else None
            found.append((schema, _name(names[-1])))
        is_name = kind in {"identifier", "quoted"}
        names = [*(names if gap == "." else []), token] if is_name else []
    return list(dict.fromkeys(found))


def _name(token: re.Match[str]) -> str:
    """As PostgreSQL has it."""
    return token[0].lower() if token["quoted"] is None else token[0][1:-1].replace('""', '"')


def _tokens(text: str) -> Iterator[tuple[str, re.Match[str]]]:
    at = 0
    while at < len(text):
        found = TOKENS.match(text, at)
        if found is None:
            at += 1
            continue
        yield next(name for name in TOKENS.groupindex if name in KINDS and found[name] is not None), found
        at = found.end()


KINDS = {*QUOTES, *REFUSED, "identifier", "opening", "closing"}
