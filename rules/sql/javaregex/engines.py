"""The two engines that run patterns, behind one interface: RE2 and `regex`.

Both get their pattern from the same tree and find the same. RE2's time is bounded by the steps that it may take; where
it would take too many, or cannot be right about a text, it hands over. `regex` is stopped by a clock.

Which one runs a pattern, and how long `regex` may, is decided in `rules.sql.patterns`. Both are imported when the first
pattern is compiled: a daemon whose rules have none does not carry them.
"""

from collections.abc import Iterator
from typing import Any, Protocol, TypeAlias

from rules.errors import EvaluationError
from rules.sql.javaregex.nodes import Tree, shortest, unrolled
from rules.sql.javaregex.scanner import PatternFault
from rules.sql.javaregex.writers import Linear, backtracking, linear
from rules.sql.values import TEXT_CHARS_MAX

MEMORY_MAX = 262_144  # bytes of RE2 for one pattern: its program, and the states that it remembers
SOURCE_CHARS_MAX = 16_384  # of a pattern as `regex` gets it; compiles in some 20 ms
UNROLLED_MAX = 16_384  # nodes in `regex`, which writes a{9} out as nine; some 20 ms and 20 MB while it compiles
STEPS_MAX = 16_000_000  # of RE2, one instruction for one byte each: at worst 4 ns, so about 60 ms
MATCH_STEPS = 500  # what a match costs beside looking for it: 2 µs of Python
SLOW_CHARS_MAX = 131_072  # AWS's largest payload; `regex` looks at the time between steps that are as long as the text

UTF8_BYTES_MAX = 4  # of a character

Span: TypeAlias = tuple[int, int]  # (-1, -1) of a group that took no part
Part: TypeAlias = str | int  # of a replacement: a literal, or the number of a group


class Handover(Exception):
    """RE2 would take too long for this text, or cannot be right about it."""


class Engine(Protocol):
    """What a pattern is asked. `seconds` are those of `regex`, which raises TimeoutError after them; RE2 has its steps.

    `replaced` goes no further when the result has grown beyond TEXT_CHARS_MAX, which its caller sees.
    """

    def found(self, text: str, seconds: float) -> bool: ...
    def first(self, text: str, seconds: float) -> str | None: ...
    def replaced(self, text: str, replacement: tuple[Part, ...], seconds: float) -> str: ...


def _rebuilt(subject: Any, matches: Iterator[list[Span]], parts: list[Any]) -> Any:
    """`subject`, which is str or bytes, with every match replaced; `parts` are of its kind, or numbers of groups."""
    nothing = subject[:0]
    always = None if any(isinstance(part, int) for part in parts) else nothing.join(parts)
    pieces: list[Any] = []
    size = place = 0
    for spans in matches:
        new = always
        if new is None:
            new = nothing.join([_slice(subject, spans[part]) if isinstance(part, int) else part for part in parts])
        start, end = spans[0]
        pieces += (subject[place:start], new)
        place = end
        size += len(new)
        if size > UTF8_BYTES_MAX * TEXT_CHARS_MAX:
            break
    return nothing.join([*pieces, subject[place:]])


def _slice(subject: Any, span: Span) -> Any:
    return subject[span[0] : span[1]] if span[0] >= 0 else subject[:0]


# ── RE2 ─────────────────────────────────────────────────────────────────────────────────────────────────────


def re2_engine(tree: Tree) -> "Re2 | None":
    """RE2 with the pattern, or None for what it cannot say."""
    import re2

    spoken = linear(tree)
    if spoken is None:
        return None
    options = re2.Options()
    options.max_mem = MEMORY_MAX
    options.log_errors = False
    try:
        return Re2(re2.compile(spoken.source, options), spoken)
    except re2.error:  # a repetition or a program too large for it, or a script that it does not know
        return None


class Re2:
    """RE2 reads UTF-8, so a subject is bytes."""

    def __init__(self, compiled: Any, spoken: Linear) -> None:
        self._compiled = compiled
        self._size = compiled.programsize
        self._groups = spoken.groups
        self._ends = spoken.ends

    def found(self, text: str, seconds: float) -> bool:
        subject = self._subject(text)
        if len(subject) * self._size > STEPS_MAX:
            raise Handover
        found = self._compiled.search(subject)
        if found is None:
            return False
        _check_between_characters(subject, found.start())
        return True

    def first(self, text: str, seconds: float) -> str | None:
        subject = self._subject(text)
        spans = next(self._matches(subject), None)
        return None if spans is None else subject[slice(*spans[0])].decode()

    def replaced(self, text: str, replacement: tuple[Part, ...], seconds: float) -> str:
        subject = self._subject(text)
        parts = [part if isinstance(part, int) else _utf8(part) for part in replacement]
        rebuilt: bytes = _rebuilt(subject, self._matches(subject), parts)
        return rebuilt.decode()

    def _subject(self, text: str) -> bytes:
        if self._ends and "\r\n" in text:  # there is no line's end inside of it, which RE2 does not see
            raise Handover
        return _utf8(text)

    def _matches(self, subject: bytes) -> Iterator[list[Span]]:
        """How far RE2 looks beyond a match cannot be known, so each time it is the end of the text that counts."""
        place = steps = 0
        while place <= len(subject):
            steps += (len(subject) - place) * self._size + MATCH_STEPS
            if steps > STEPS_MAX:
                raise Handover
            found = self._compiled.search(subject, place)
            if found is None:
                return
            spans = [found.span(group) for group in self._groups]
            for group in self._ends:
                if (end := found.start(group)) >= 0:
                    spans = [(start, min(stop, end)) for start, stop in spans]
            start, place = spans[0]
            _check_between_characters(subject, start)
            yield spans
            if place == start:
                place += _width(subject[place]) if place < len(subject) else 1


def _utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:  # half a character
        raise Handover from None


def _check_between_characters(subject: bytes, place: int) -> None:
    """To RE2 \\B is inside of a character too, so it cannot be asked about a text where it found that."""
    if place < len(subject) and subject[place] & 0xC0 == 0x80:
        raise Handover


def _width(first_byte: int) -> int:
    """How many bytes a character has in UTF-8."""
    return 1 if first_byte < 0xC0 else 2 if first_byte < 0xE0 else 3 if first_byte < 0xF0 else 4


# ── the engine that tries every way ─────────────────────────────────────────────────────────────────────────


class Backtracking:
    """`regex` reads str."""

    def __init__(self, tree: Tree) -> None:
        """Raises PatternFault for what is too large."""
        import regex

        source = backtracking(tree)
        if len(source) > SOURCE_CHARS_MAX or unrolled(tree.root) > UNROLLED_MAX:
            raise PatternFault("the pattern is too large")
        self._groups = range(tree.groups + 1)
        self._may_be_empty = shortest(tree.root) == 0
        try:
            self._compiled = regex.compile(source, regex.VERSION0, cache_pattern=False)
        except (regex.error, RecursionError, OverflowError) as error:
            raise PatternFault(f"the engine for patterns of this kind does not take it: {error}") from None

    def found(self, text: str, seconds: float) -> bool:
        return self._compiled.search(_checked(text), timeout=seconds) is not None

    def first(self, text: str, seconds: float) -> str | None:
        found = self._compiled.search(_checked(text), timeout=seconds)
        return None if found is None else str(found[0])

    def replaced(self, text: str, replacement: tuple[Part, ...], seconds: float) -> str:
        if self._may_be_empty:
            return str(_rebuilt(_checked(text), self._matches(text, seconds), list(replacement)))
        always = None if any(isinstance(part, int) for part in replacement) else "".join(map(str, replacement))
        size = 0

        def new(found: Any) -> str:
            nonlocal size
            put = always
            if put is None:
                put = "".join([part if isinstance(part, str) else found[part] or "" for part in replacement])
            size += len(put)
            return put if size <= TEXT_CHARS_MAX else ""

        rebuilt = str(self._compiled.sub(new, _checked(text), timeout=seconds))  # up to three times as quick
        if size > TEXT_CHARS_MAX:
            raise EvaluationError(f"a String grew beyond {TEXT_CHARS_MAX:,} characters")
        return rebuilt

    def _matches(self, subject: str, seconds: float) -> Iterator[list[Span]]:
        """As Java goes on after an empty match: one character further, even if more could be matched right there.

        `regex` goes on right there. Once it has done so, it is asked for the match at every character instead.
        """
        place = 0
        for overlapped in (False, True):
            for found in self._compiled.finditer(subject, place, overlapped=overlapped, timeout=seconds):
                start, end = found.span()
                if start >= place:
                    yield [found.span(group) for group in self._groups]
                    place = max(end, start + 1)
                elif not overlapped:
                    break
            else:
                return


def _checked(text: str) -> str:
    if len(text) > SLOW_CHARS_MAX:
        raise EvaluationError(f"a text of more than {SLOW_CHARS_MAX:,} characters is too long for this pattern")
    return text
