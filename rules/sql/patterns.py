"""Java regular expressions that cannot stall a daemon.

A pattern runs on RE2, whose time grows with the length of the text and nothing else, wherever RE2 can say what the
pattern says and the text is not so long that even that is much (STEPS_MAX). Otherwise it runs on `regex`, which tries
every way to match and may try for years, so it is stopped after SECONDS_MAX. A pattern that was stopped TIMEOUTS_MAX
times is not tried there again, and after ALL_TIMEOUTS_MAX none is, until the rules are loaded again, when whoever loads
them calls `forget`.

Whatever pattern and text are, a call answers, or raises EvaluationError, within about a tenth of a second of computing.
What is kept is bounded: KEPT patterns, each with at most MEMORY_MAX bytes in RE2.

Both engines are imported when the first pattern is compiled: a daemon whose rules have none does not carry them.
"""

import re
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any, Protocol, TypeAlias, TypeVar

from rules.errors import EvaluationError
from rules.sql.javaregex.nodes import Tree, unrolled
from rules.sql.javaregex.reader import read
from rules.sql.javaregex.scanner import PatternFault
from rules.sql.javaregex.writers import Linear, backtracking, linear
from rules.sql.values import TEXT_CHARS_MAX, joined

PATTERN_CHARS_MAX = 2_048  # the longest ones in use (e-mail addresses, IPv6) have a few hundred
KEPT = 512  # compiling takes 0.1 to 10 ms, looking it up here 0.1 µs
MEMORY_MAX = 262_144  # bytes of RE2 for one pattern: its program, and the states that it remembers
SOURCE_CHARS_MAX = 16_384  # of a pattern as `regex` gets it; compiles in some 20 ms
UNROLLED_MAX = 16_384  # nodes in `regex`, which writes a{9} out as nine; some 20 ms and 20 MB while it compiles
STEPS_MAX = 16_000_000  # of RE2, one instruction for one byte each: at worst 4 ns, so about 60 ms
MATCH_STEPS = 500  # what a match costs beside looking for it: 2 µs of Python
SECONDS_MAX = 0.05  # of `regex`, where an everyday pattern takes microseconds
SLOW_CHARS_MAX = 131_072  # AWS's largest payload; `regex` looks at the time between steps that are as long as the text
TIMEOUTS_MAX = 10  # so that a bad pattern costs the daemon half a second, and then nothing
ALL_TIMEOUTS_MAX = 100  # a pattern may come from a payload, another one each time: five seconds, and then nothing

SHOWN_CHARS = 60  # of a pattern in an error

Span: TypeAlias = tuple[int, int]  # (-1, -1) of a group that took no part
Part: TypeAlias = str | int  # of a replacement: a literal, or the number of a group
T = TypeVar("T")

_PART = re.compile(r"\$(?:([0-9])|\{([a-zA-Z][a-zA-Z0-9]*)\})|\\(.)|([^$\\]+)", re.DOTALL)


class _Handover(Exception):
    """RE2 would take too long for this text, or cannot be right about it."""


class _Engine(Protocol):
    """`subject` is a text as the engine wants it, and spans are slices of that; `piece` is `str` for a slice."""

    def found(self, text: str) -> bool: ...
    def subject(self, text: str) -> Any: ...
    def piece(self, part: Any) -> str: ...
    def matches(self, subject: Any) -> Iterator[list[Span]]: ...


class Pattern:
    """A compiled pattern."""

    def __init__(self, source: str, tree: Tree) -> None:
        """Raises PatternFault for what neither engine runs."""
        self._shown = f"the pattern {source[:SHOWN_CHARS]!r}"
        self._tree = tree
        self._timeouts = 0
        self._linear = _linear_engine(tree)
        self._backtracking = None if self._linear else _Backtracking(tree)

    @property
    def slow(self) -> bool:
        """Whether it runs on the engine that has to be stopped, whatever the text."""
        return self._linear is None

    def found_in(self, text: str) -> bool:
        """Whether the text contains a match (`Matcher.find`)."""
        return self._run(lambda engine: engine.found(text))

    def first_in(self, text: str) -> str | None:
        """The first match."""

        def first(engine: _Engine) -> str | None:
            subject = engine.subject(text)
            return next((engine.piece(subject[slice(*spans[0])]) for spans in engine.matches(subject)), None)

        return self._run(first)

    def replaced_in(self, text: str, replacement: tuple[Part, ...]) -> str:
        """The text with every match replaced (`Matcher.replaceAll`); the replacement comes from `parts`."""
        return self._run(lambda engine: _replaced(engine, text, replacement))

    def parts(self, replacement: str) -> tuple[Part, ...] | None:
        """A replacement, taken apart: `$1`, `${name}`, `\\` before what is meant literally. None if it is not valid."""
        found: list[Part] = []
        at = 0
        while at < len(replacement):
            part = _PART.match(replacement, at)
            if part is None:  # a lone $ or a \ at the end
                return None
            at = part.end()
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

    def _run(self, use: Callable[[_Engine], T]) -> T:
        """What `use` makes of the engine for its text. Raises EvaluationError where that takes too long."""
        if self._linear is not None:
            try:
                return use(self._linear)
            except _Handover:
                pass
        if self._timeouts >= TIMEOUTS_MAX:
            raise EvaluationError(f"{self._shown} took too long {TIMEOUTS_MAX} times and is not tried again")
        if _patience.left <= 0:
            raise EvaluationError(f"{self._shown} may be slow, and too many patterns have taken too long")
        try:
            self._backtracking = self._backtracking or _Backtracking(self._tree)
            return use(self._backtracking)
        except TimeoutError:
            self._timeouts += 1
            _patience.left -= 1
            raise EvaluationError(f"{self._shown} took longer than {SECONDS_MAX * 1000:.0f} ms") from None
        except (MemoryError, PatternFault) as error:
            raise EvaluationError(f"{self._shown} cannot be used for this text: {error}") from None


def _replaced(engine: _Engine, text: str, replacement: tuple[Part, ...]) -> str:
    subject = engine.subject(text)
    pieces: list[str] = []
    size = place = 0
    for spans in engine.matches(subject):
        start, end = spans[0]
        parts = [part if isinstance(part, str) else engine.piece(_slice(subject, spans[part])) for part in replacement]
        pieces += [engine.piece(subject[place:start]), *parts]
        place = end
        size += sum(map(len, parts))
        if size > TEXT_CHARS_MAX:
            break  # `joined` says so
    return joined([*pieces, engine.piece(subject[place:])])


def _slice(subject: Any, span: Span) -> Any:
    return subject[span[0] : span[1]] if span[0] >= 0 else subject[:0]


# ── RE2 ─────────────────────────────────────────────────────────────────────────────────────────────────────


def _linear_engine(tree: Tree) -> "_Linear | None":
    import re2

    spoken = linear(tree)
    if spoken is None:
        return None
    options = re2.Options()
    options.max_mem = MEMORY_MAX
    options.log_errors = False
    try:
        return _Linear(re2.compile(spoken.source, options), spoken)
    except re2.error:  # a repetition or a program too large for it, or a script that it does not know
        return None


class _Linear:
    """RE2 reads UTF-8, so a subject is bytes."""

    def __init__(self, compiled: Any, spoken: Linear) -> None:
        self._compiled = compiled
        self._size = compiled.programsize
        self._groups = spoken.groups
        self._ends = spoken.ends

    def found(self, text: str) -> bool:
        subject = self.subject(text)
        if len(subject) * self._size > STEPS_MAX:
            raise _Handover
        found = self._compiled.search(subject)
        return found is not None and self._is_between_characters(subject, found.start())

    def subject(self, text: str) -> bytes:
        if self._ends and "\r\n" in text:  # there is no line's end inside of it, which RE2 does not see
            raise _Handover
        try:
            return text.encode()
        except UnicodeEncodeError:  # half a character
            raise _Handover from None

    def piece(self, part: bytes) -> str:
        return part.decode()

    def matches(self, subject: bytes) -> Iterator[list[Span]]:
        place = steps = 0
        while place <= len(subject):
            steps += (len(subject) - place) * self._size + MATCH_STEPS
            if steps > STEPS_MAX:
                raise _Handover
            found = self._compiled.search(subject, place)
            if found is None:
                return
            spans = [found.span(group) for group in self._groups]
            for end in (found.start(group) for group in self._ends):
                if end >= 0:
                    spans = [(start, min(stop, end)) for start, stop in spans]
            start, place = spans[0]
            if self._is_between_characters(subject, start):
                yield spans
            if place == start:
                place += _width(subject[place]) if place < len(subject) else 1

    @staticmethod
    def _is_between_characters(subject: bytes, place: int) -> bool:
        """True. To RE2 \\B is inside of a character too, so it cannot be asked about this text."""
        if place < len(subject) and subject[place] & 0xC0 == 0x80:
            raise _Handover
        return True


def _width(first_byte: int) -> int:
    """How many bytes a character has in UTF-8."""
    return 1 if first_byte < 0xC0 else 2 if first_byte < 0xE0 else 3 if first_byte < 0xF0 else 4


# ── the engine that tries every way ─────────────────────────────────────────────────────────────────────────


class _Backtracking:
    """`regex` reads str. It raises TimeoutError after SECONDS_MAX."""

    def __init__(self, tree: Tree) -> None:
        import regex

        source = backtracking(tree)
        if len(source) > SOURCE_CHARS_MAX or unrolled(tree.root) > UNROLLED_MAX:
            raise PatternFault("the pattern is too large")
        self._groups = range(tree.groups + 1)
        try:
            self._compiled = regex.compile(source, regex.VERSION0, cache_pattern=False)
        except (regex.error, RecursionError, OverflowError) as error:
            raise PatternFault(f"the engine for patterns of this kind does not take it: {error}") from None

    def found(self, text: str) -> bool:
        return self._compiled.search(self.subject(text), timeout=SECONDS_MAX) is not None

    def subject(self, text: str) -> str:
        if len(text) > SLOW_CHARS_MAX:
            raise EvaluationError(f"a text of more than {SLOW_CHARS_MAX:,} characters is too long for this pattern")
        return text

    def piece(self, part: str) -> str:
        return part

    def matches(self, subject: str) -> Iterator[list[Span]]:
        """As Java goes on after an empty match: one character further, even if more could be matched right there.

        `regex` goes on right there. Once it has done so, it is asked for the match at every character instead.
        """
        place = 0
        for overlapped in (False, True):
            for found in self._compiled.finditer(subject, place, overlapped=overlapped, timeout=SECONDS_MAX):
                start, end = found.span()
                if start >= place:
                    yield [found.span(group) for group in self._groups]
                    place = max(end, start + 1)
                elif not overlapped:
                    break
            else:
                return


# ── what is kept ────────────────────────────────────────────────────────────────────────────────────────────


class _Patience:
    """How many more patterns may take too long."""

    left = ALL_TIMEOUTS_MAX


_patience = _Patience()


@lru_cache(maxsize=KEPT)
def _read(source: str) -> Pattern | str:
    if len(source) > PATTERN_CHARS_MAX:
        return f"it has more than {PATTERN_CHARS_MAX:,} characters"
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
    _read.cache_clear()
    _patience.left = ALL_TIMEOUTS_MAX
