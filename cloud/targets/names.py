"""What Firehose calls an object:
`<prefix><stream>-<version>-<yyyy>-<MM>-<dd>-<HH>-<mm>-<ss>-<uuid><extension>`.

Decides names, in UTC, from values only. A prefix is literal text with `!{timestamp:pattern}` expressions, the
pattern being one of Java's DateTimeFormatter; a prefix without such an expression gets
`!{timestamp:yyyy/MM/dd/HH/}` appended, as Firehose does. Will not evaluate Firehose's other expressions: they
are refused when the configuration is loaded.
"""

import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

PREFIX_TEMPLATE_CHARACTERS_MAX = 1_024  # Firehose's limits: the template,
PREFIX_CHARACTERS_MAX = 512  # and what it evaluates to
DEFAULT_PREFIX = "!{timestamp:yyyy/MM/dd/HH/}"

_EXPRESSION = re.compile(r"!\{([^}]*)\}")
_PATTERN = re.compile(r"'((?:[^']|'')*)'|([A-Za-z])\2*|[^A-Za-z']+")
_UUID = r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_OBJECT = re.compile(rf"(?P<before>.+)-\d+-(?P<moment>\d{{4}}(-\d\d){{5}})-{_UUID}(\.gz)?")
_FIELDS = {
    "yyyy": "%Y", "uuuu": "%Y", "yy": "%y", "MM": "%m", "dd": "%d", "DDD": "%j",
    "HH": "%H", "mm": "%M", "ss": "%S",
}  # fmt: skip
_SPECIMEN = datetime(2024, 12, 31, tzinfo=UTC)  # all moments give prefixes of the same length

_Part = Callable[[datetime], str]


class Prefix:
    """A parsed prefix template; raises ValueError, saying what is wrong, for one that cannot be evaluated."""

    def __init__(self, template: str) -> None:
        if len(template) > PREFIX_TEMPLATE_CHARACTERS_MAX:
            raise ValueError(f"prefix is longer than {PREFIX_TEMPLATE_CHARACTERS_MAX:,} characters")
        if not _EXPRESSION.search(template):
            template += DEFAULT_PREFIX
        self._parts = list(_parse(template))
        if len(self.render(_SPECIMEN)) > PREFIX_CHARACTERS_MAX:
            raise ValueError(f"prefix evaluates to more than {PREFIX_CHARACTERS_MAX} characters")

    def render(self, moment: datetime) -> str:
        """The prefix for an object whose oldest record arrived at `moment` (UTC)."""
        return "".join(part(moment) for part in self._parts)


def object_name(prefix: Prefix, stream: str, version: int, oldest_ms: int, uuid: str, extension: str) -> str:
    """The key of an object; `oldest_ms` is when its oldest record arrived, in milliseconds since the epoch."""
    moment = datetime.fromtimestamp(oldest_ms // 1000, UTC)
    return f"{prefix.render(moment)}{stream}-{version}-{moment:%Y-%m-%d-%H-%M-%S}-{uuid}{extension}"


def is_object_of(prefix: Prefix, stream: str, file_name: str) -> bool:
    """Whether a file's name (behind its last '/') is one that `object_name` gives to this stream."""
    found = _OBJECT.fullmatch(file_name)
    if found is None:
        return False
    try:
        moment = datetime.strptime(found["moment"], "%Y-%m-%d-%H-%M-%S").replace(tzinfo=UTC)
    except ValueError:
        return False
    return found["before"] == prefix.render(moment).rpartition("/")[2] + stream


def _parse(template: str) -> Iterator[_Part]:
    end = 0
    for expression in _EXPRESSION.finditer(template):
        yield _literal(template[end : expression.start()])
        namespace, _, pattern = expression[1].partition(":")
        if namespace != "timestamp":
            raise ValueError(f"prefix expression {expression[0]} is not supported, only !{{timestamp:…}} is")
        yield from _timestamp(pattern)
        end = expression.end()
    yield _literal(template[end:])


def _literal(text: str) -> _Part:
    if "!{" in text:
        raise ValueError("prefix has '!{' without its '}'")
    return lambda _: text


def _timestamp(pattern: str) -> Iterator[_Part]:
    end = 0
    while end < len(pattern):
        part = _PATTERN.match(pattern, end)
        if part is None:
            raise ValueError(f"timestamp pattern {pattern!r} has an unmatched quote")
        end = part.end()
        yield _field(part[0]) if part[2] else _literal(_unquoted(part))


def _unquoted(part: re.Match[str]) -> str:
    if part[1] is None:
        return part[0]
    return part[1].replace("''", "'") or "'"  # Java: '' is one quote, inside a quoted text and outside


def _field(letters: str) -> _Part:
    directive = _FIELDS.get(letters)
    if directive is None:
        hint = "; YYYY is the week-based year, write yyyy" if letters == "YYYY" else ""
        raise ValueError(f"timestamp pattern {letters!r} is not supported, only {' '.join(_FIELDS)}{hint}")
    return lambda moment: moment.strftime(directive)
