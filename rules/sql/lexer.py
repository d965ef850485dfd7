"""Tokens of IoT SQL, one at a time from any place in a text, so that a template can lex just what stands in
`${…}`.

Knows characters, not grammar: which words are keywords is the parser's business. Strings take either quote;
the quote itself is written twice inside ('it''s'), which AWS leaves undocumented and SQL has always done.
"""

import re
from dataclasses import dataclass
from decimal import Decimal

from rules.errors import SqlError
from rules.sql.values import UNDEFINED, number

SQL_CHARS_MAX = 131_072  # AWS: a whole rule has at most 128 KB

_TOKEN = re.compile(
    r"""
      (?P<name>     [^\W\d]\w* )
    | (?P<number>   [0-9]+ (?:\.[0-9]+)? (?:[eE][+-]?[0-9]+)? ) (?![\w.])
    | (?P<string>   '[^']*+(?:''[^']*+)*+' | "[^"]*+(?:""[^"]*+)*+" )
    | (?P<variable> @[A-Za-z0-9_]+ )
    | (?P<mark>     <> | <= | >= | [-+*/%=<>(),.\[\]{}:] )
    """,
    re.VERBOSE,
)
_SPACE = re.compile(r"\s*")
_SURROGATE = re.compile("[\ud800-\udfff]")  # half a character: neither JSON nor MQTT can carry it
_WRONG = {  # what people write by habit → what to write here
    "!": "write <> for 'not equal'",
    "|": "write + to join strings, OR for 'or'",
    "&": "write AND",
    ";": "a statement has no semicolon",
    "`": "names are not quoted",
    "$": "templates like ${…} belong in actions, not in the statement",
    "@": "a variable is @ and letters, digits or _",
}


@dataclass(frozen=True, slots=True)
class Token:
    """`kind` is name, number, string, variable, mark or end; `value` is what a number or string stands for."""

    kind: str
    text: str
    start: int
    end: int
    value: str | int | float | Decimal | None = None

    @property
    def word(self) -> str:
        """What a keyword is compared with: a name in upper case; other alphabets have no keywords."""
        return self.text.upper() if self.text.isascii() else ""


def token(text: str, offset: int) -> Token:
    """The token at or after character `offset`; raises SqlError where none can begin."""
    space = _SPACE.match(text, offset)
    start = space.end() if space else offset
    if start == len(text):
        return Token("end", "", start, start)
    match = _TOKEN.match(text, start)
    if match is None:
        raise SqlError.at(text, start, _complaint(text, start))
    kind, word = str(match.lastgroup), match.group()
    value: str | int | float | Decimal | None = None
    if kind == "number":
        value = number(word.replace("+", ""))
        if value is UNDEFINED:
            raise SqlError.at(text, start, f"{word[:40]} is beyond the largest number, 9.99E999")
    elif kind == "string":
        if half := _SURROGATE.search(word):
            raise SqlError.at(text, start + half.start(), "this string holds half a character (a lone surrogate)")
        value = word[1:-1].replace(word[0] * 2, word[0])
    return Token(kind, word, start, match.end(), value)


def _complaint(text: str, start: int) -> str:
    character = text[start]
    if character in "'\"":
        return f"this string has no closing {character}"
    if character.isdigit():
        return "this is no number: write 12, 0.5 or 1E3 (for a name that begins with a digit: get(*, '1a'))"
    hint = _WRONG.get(character)
    return f"unexpected {character!r}" + (f": {hint}" if hint else "")
