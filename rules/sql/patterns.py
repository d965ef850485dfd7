"""Java regular expressions that cannot stall a daemon.

A pattern runs on RE2, whose time grows with the length of the text and nothing else, wherever RE2 can say what the
pattern says and the text is not so long that even that is much. Otherwise it runs on `regex`, which tries every way to
match and may try for years, so it is stopped after SECONDS_MAX.

Nothing is given up for having been stopped, but patience ends: a pattern that has been stopped TIMEOUTS_MAX times, and
after ALL_TIMEOUTS_MAX every pattern that is new, has SECONDS_MIN, which is still a hundred times what an everyday text
takes. Answers in time earn patience back, ANSWERS of them for one time-out. So what one device sends, be it texts or
patterns, takes nothing from the others. Whoever loads rules calls `forget`, and all begins anew.

Whatever pattern and text are, a call answers, or raises EvaluationError, within about a sixth of a second of computing.
What is kept is bounded: KEPT patterns, each with at most MEMORY_MAX bytes in RE2.

Both engines are imported when the first pattern is compiled: a daemon whose rules have none does not carry them.
"""

import re
from collections.abc import Callable
from functools import lru_cache
from typing import TypeVar

from rules.errors import EvaluationError
from rules.sql.javaregex.engines import Backtracking, Engine, Handover, Part, re2_engine
from rules.sql.javaregex.nodes import Tree
from rules.sql.javaregex.reader import read
from rules.sql.javaregex.scanner import PatternFault
from rules.sql.values import joined

PATTERN_CHARS_MAX = 2_048  # the longest ones in use (e-mail addresses, IPv6) have a few hundred
KEPT = 512  # compiling takes 0.1 to 10 ms, looking it up here 0.1 µs
SECONDS_MAX = 0.05  # of `regex`, where an everyday pattern takes microseconds
HANDED_OVER_SECONDS_MAX = 0.1  # of `regex` where RE2 says that the text is long; 100,000 matches, for one
SECONDS_MIN = 0.002  # of `regex` without patience; with the longest texts it notices after ten
TIMEOUTS_MAX = 10  # so that a bad pattern costs the daemon half a second, and then little
ALL_TIMEOUTS_MAX = 100  # a pattern may come from a payload, another one each time: five to ten seconds, then little
ANSWERS = 1_000  # that pay for a time-out, its own and one of all: 0.1 ms more for each answer at worst
PARTS_MAX = 1_000  # of a replacement: its groups and what stands between them

SHOWN_CHARS = 60  # of a pattern in an error

T = TypeVar("T")

_PART = re.compile(r"\$(?:([0-9])|\{([a-zA-Z][a-zA-Z0-9]*)\})|\\(.)|([^$\\]+)", re.DOTALL)


class Pattern:
    """A compiled pattern."""

    def __init__(self, source: str, tree: Tree) -> None:
        """Raises PatternFault for what neither engine runs."""
        self._shown = f"the pattern {source[:SHOWN_CHARS]!r}"
        self._tree = tree
        self._linear = re2_engine(tree)
        self._backtracking = None if self._linear else Backtracking(tree)
        self._patience = _Patience(_of_handed_over if self._linear else _of_slow)

    @property
    def slow(self) -> bool:
        """Whether it runs on the engine that has to be stopped, whatever the text."""
        return self._linear is None

    def found_in(self, text: str) -> bool:
        """Whether the text contains a match (`Matcher.find`)."""
        return self._run(lambda engine, seconds: engine.found(text, seconds))

    def first_in(self, text: str) -> str | None:
        """The first match."""
        return self._run(lambda engine, seconds: engine.first(text, seconds))

    def replaced_in(self, text: str, replacement: tuple[Part, ...]) -> str:
        """The text with every match replaced (`Matcher.replaceAll`); the replacement comes from `parts`."""
        return joined([self._run(lambda engine, seconds: engine.replaced(text, replacement, seconds))])

    def parts(self, replacement: str) -> tuple[Part, ...] | None:
        """A replacement, taken apart: `$1`, `${name}`, `\\` before what is meant literally. None if it is not valid.

        Raises EvaluationError for more than PARTS_MAX parts.
        """
        found: list[Part] = []
        at = 0
        while at < len(replacement):
            part = _PART.match(replacement, at)
            if part is None:  # a lone $ or a \ at the end
                return None
            at = part.end()
            if len(found) == PARTS_MAX:
                raise EvaluationError(f"a replacement has more than {PARTS_MAX:,} parts")
            digit, name, *literals = part.groups()
            if digit is None and name is None:
                found += filter(None, literals)
                continue
            number = int(digit) if digit else self._tree.names.get(name, -1)
            while digit and at < len(replacement) and replacement[at] in "0123456789":
                if number * 10 + int(replacement[at]) > self._tree.groups:
                    break
                number, at = number * 10 + int(replacement[at]), at + 1
            if not 0 <= number <= self._tree.groups:
                return None
            found.append(number)
        return tuple(found)

    def _run(self, use: Callable[[Engine, float], T]) -> T:
        """What `use` makes of the engine for its text, in so many seconds of `regex`.

        Raises EvaluationError where that takes too long.
        """
        if self._linear is not None:
            try:
                answer = use(self._linear, SECONDS_MAX)
                self._patience.earns()
                return answer
            except Handover:
                pass
        seconds = self._patience.seconds()
        try:
            self._backtracking = self._backtracking or Backtracking(self._tree)
            answer = use(self._backtracking, seconds)
        except TimeoutError:
            self._patience.pays(seconds)
            raise EvaluationError(f"{self._shown} took longer than {seconds * 1000:.0f} ms") from None
        except (MemoryError, PatternFault) as error:
            raise EvaluationError(f"{self._shown} cannot be used for this text: {error}") from None
        self._patience.earns()
        return answer


# ── patience ────────────────────────────────────────────────────────────────────────────────────────────────


class _Common:
    """What all patterns of a kind may draw on: answers, of which a time-out costs ANSWERS. `seconds` are those of one
    that has patience."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.left = ALL_TIMEOUTS_MAX * ANSWERS


_of_slow = _Common(SECONDS_MAX)
_of_handed_over = _Common(HANDED_OVER_SECONDS_MAX)  # their own: a long text says nothing of what RE2 cannot say


class _Patience:
    """How long a pattern may take on `regex`, by how long it has taken."""

    def __init__(self, common: _Common) -> None:
        self._common = common
        self._drawn = 0  # time-outs that the common patience has paid
        self._earned = 0  # answers in time, which pay before that

    def seconds(self) -> float:
        is_new = self._drawn < TIMEOUTS_MAX and self._common.left >= ANSWERS
        return self._common.seconds if is_new or self._earned >= ANSWERS else SECONDS_MIN

    def pays(self, seconds: float) -> None:
        """For a time-out after `seconds`."""
        if self._earned >= ANSWERS:
            self._earned -= ANSWERS
        elif seconds > SECONDS_MIN:
            self._drawn += 1
            self._common.left -= ANSWERS

    def earns(self) -> None:
        """For an answer in time."""
        if self._earned < TIMEOUTS_MAX * ANSWERS:
            self._earned += 1
        if self._common.left < ALL_TIMEOUTS_MAX * ANSWERS:
            self._common.left += 1


# ── what is kept ────────────────────────────────────────────────────────────────────────────────────────────


def _read(source: str) -> Pattern | str:
    """The pattern, or why it cannot be used."""
    if len(source) > PATTERN_CHARS_MAX:
        return f"it has more than {PATTERN_CHARS_MAX:,} characters"
    return _kept(source)


@lru_cache(maxsize=KEPT)
def _kept(source: str) -> Pattern | str:
    try:
        return Pattern(source, read(source))
    except PatternFault as fault:
        return str(fault)


def compile(pattern: str) -> Pattern | None:  # noqa: A001 - it is what re, re2 and regex call it
    """The pattern, ready for use; None if it is no Java pattern or cannot be run here (`fault` says why)."""
    found = _read(pattern)
    return found if isinstance(found, Pattern) else None


def fault(pattern: str) -> str | None:
    """Why a pattern cannot be used; None if it can."""
    found = _read(pattern)
    return found if isinstance(found, str) else None


def slow(pattern: str) -> bool:
    """Whether the pattern needs the backtracking engine: look-around, back-references, atomic groups and the like."""
    found = _read(pattern)
    return isinstance(found, Pattern) and found.slow


def forget() -> None:
    """Drops every compiled pattern, and that some took too long. For whoever loads rules."""
    _kept.cache_clear()
    for common in (_of_slow, _of_handed_over):
        common.left = ALL_TIMEOUTS_MAX * ANSWERS
