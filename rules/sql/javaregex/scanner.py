"""A pattern's text, character by character: quotations, comments, and escapes that stand for characters.

`\\Q…\\E` is gone before anything is read, as in Java: each special character in it has its own backslash. With the
flag `x`, white space and comments are stepped over between any two characters, in classes too.
"""

import re
import unicodedata
from typing import NoReturn

from rules.sql.javaregex import properties
from rules.sql.javaregex.sets import LAST, Chars, CharSet, complement, either_case

FLAGS = frozenset("dimsuxU")
SIMPLE = {"t": 9, "n": 10, "r": 13, "f": 12, "a": 7, "e": 27}
HIGH, LOW = range(0xD800, 0xDC00), range(0xDC00, 0xE000)
COMMENT = re.compile(r"(?:[ \t\n\x0b\f\r]|#[^\n\r\x85\u2028\u2029]*)+")
QUOTED = re.compile(r"\\Q(.*?)(?:\\E|\Z)|\\.|[^\\]+", re.DOTALL)
SPECIAL = re.compile(r"\W", re.ASCII)


class PatternFault(ValueError):
    """Why a text is no Java pattern, or none that can run here."""


class Scanner:
    """Where a reader is in its pattern, and the flags in force there."""

    def __init__(self, text: str) -> None:
        self._text = QUOTED.sub(_unquoted, text)
        self._place = 0
        self.flags: frozenset[str] = frozenset()

    def fail(self, reason: str) -> NoReturn:
        """Raises PatternFault with the place."""
        raise PatternFault(f"{reason}, at character {min(self._place, len(self._text)) + 1}")

    def peek(self) -> str:
        """The next character, "" at the end; comments are stepped over."""
        if "x" in self.flags and (comment := COMMENT.match(self._text, self._place)):
            self._place = comment.end()
        return self._text[self._place : self._place + 1]

    def next(self) -> str:
        """The next character, taken."""
        char = self.peek()
        self._place += 1
        return char

    def raw(self) -> str:
        """The very next character, taken, which a backslash or brace has made a part of itself."""
        self._place += 1
        return self._text[self._place - 1 : self._place]

    def take(self, literal: str) -> bool:
        """Whether `literal` comes next; if so, it is taken."""
        self.peek()
        found = self._text.startswith(literal, self._place)
        self._place += len(literal) * found
        return found

    def ahead(self, literal: str) -> bool:
        """Whether `literal` comes next."""
        self.peek()
        return self._text.startswith(literal, self._place)

    def match(self, pattern: re.Pattern[str]) -> str | None:
        """What `pattern` matches right here, taken."""
        found = pattern.match(self._text, self._place)
        if found is None:
            return None
        self._place = found.end()
        return found[0]

    def cased(self, given: Chars) -> Chars:
        """The set as the flags have it: with (?i) each letter in both cases."""
        return either_case(given, beyond_ascii=bool(self.flags & {"u", "U"})) if "i" in self.flags else given

    # ── escapes; the backslash has been taken ───────────────────────────────────────────────────────────────

    def escape(self) -> int | CharSet:
        """The character or the set that an escape stands for, in a class or outside of one."""
        char = self.raw()
        if char.lower() in properties.ESCAPES:
            table = properties.ESCAPES_UNICODE if "U" in self.flags else properties.ESCAPES
            return table[char] if char in table else complement(table[char.lower()])
        if char in SIMPLE:
            return SIMPLE[char]
        if char in {"p", "P"}:
            found = self._property()
            return found if char == "p" else complement(found)
        match char:
            case "x":
                return self._hex()
            case "u":
                return self._unit()
            case "0":
                return self._octal()
            case "c":
                return ord(self.raw() or self.fail("\\c needs a character")) ^ 64
            case "N":
                return self._by_name()
            case "":
                self.fail("a lone \\")
        if char.isascii() and char.isalnum():
            self._place -= 1
            self.fail(f"\\{char} means nothing here")
        return ord(char)

    def _hex(self) -> int:
        digits = self.match(re.compile(r"[0-9A-Fa-f]{2}|\{[0-9A-Fa-f]+\}"))
        if digits is None or int(digits.strip("{}"), 16) > LAST:
            self.fail("\\x needs two digits, or {…} with at most 10FFFF")
        return int(digits.strip("{}"), 16)

    def _unit(self) -> int:
        """`\\uXXXX`; two that are the halves of a character are that character."""
        digits = self.match(re.compile(r"[0-9A-Fa-f]{4}"))
        if digits is None:
            self.fail("\\u needs four digits")
        code = int(digits, 16)
        if code in HIGH and (low := re.match(r"\\u([0-9A-Fa-f]{4})", self._text[self._place :])):
            other = int(low[1], 16)
            if other in LOW:
                self._place += low.end()
                return 0x10000 + ((code - HIGH.start) << 10) + other - LOW.start
        return code

    def _octal(self) -> int:
        digits = self.match(re.compile(r"[0-3][0-7]{0,2}|[0-7]{1,2}"))
        return int(digits, 8) if digits is not None else self.fail("\\0 needs an octal digit")

    def _by_name(self) -> int:
        name = self.match(re.compile(r"\{[A-Za-z0-9 -]+\}")) or ""
        try:
            return ord(unicodedata.lookup(name.strip("{}")))
        except (KeyError, TypeError):  # TypeError: a name of several characters
            self.fail(f"\\N{name or '{…}'} is no character")

    def _property(self) -> CharSet:
        name = (self.match(re.compile(r"\{[^}]+\}")) or self.raw()).strip("{}")
        found = properties.named(name, "U" in self.flags, "i" in self.flags)
        return found if found is not None else self.fail(f"no property is called {name!r}")


def _unquoted(found: re.Match[str]) -> str:
    return found[0] if found[1] is None else SPECIAL.sub(r"\\\g<0>", found[1])
