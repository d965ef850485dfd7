"""Functions of Strings: taking apart, putting together, searching, and base64.

Arguments that are no Strings are converted as everywhere (`rules.sql.values.text`): Null and Undefined give Undefined.
Characters are Unicode code points. A result beyond TEXT_CHARS_MAX or ITEMS_MAX raises EvaluationError before it is
built.

Regular expressions are in `rules.sql.functions.regexes`.
"""

from base64 import b64decode, b64encode
from typing import Any

from rules.errors import EvaluationError
from rules.sql.functions.function import Function, of_texts
from rules.sql.payloads import read
from rules.sql.values import TEXT_CHARS_MAX, UNDEFINED, SqlVersion, index, joined, text

PAD_MAX = 1000  # AWS: lpad and rpad take 0 to 1000 spaces
ITEMS_MAX = 200_000  # of an Array that concat makes: a statement may name the payload's longest one 1,000 times
ASCII_MAX = 127
BASE64 = "base64"


# ── putting together ────────────────────────────────────────────────────────────────────────────────────────


def _concat(*values: Any) -> Any:
    if not values or any(value is UNDEFINED for value in values):
        return UNDEFINED
    if any(value.__class__ is list for value in values):
        if sum(len(value) if value.__class__ is list else 1 for value in values) > ITEMS_MAX:
            raise EvaluationError(f"an Array grew beyond {ITEMS_MAX:,} elements")
        return [item for value in values for item in (value if value.__class__ is list else [value])]
    parts = [text(value) for value in values]
    return UNDEFINED if UNDEFINED in parts else joined(parts)


def _chr(code: Any) -> Any:
    code = index(code)
    return chr(code) if code is not UNDEFINED and 0 <= code <= ASCII_MAX else UNDEFINED


def _lpad(value: Any, count: Any) -> Any:
    value, spaces = text(value), _spaces(count)
    return UNDEFINED if value is UNDEFINED or spaces is UNDEFINED else joined([spaces, value])


def _rpad(value: Any, count: Any) -> Any:
    value, spaces = text(value), _spaces(count)
    return UNDEFINED if value is UNDEFINED or spaces is UNDEFINED else joined([value, spaces])


def _spaces(count: Any) -> Any:
    count = index(count)
    return UNDEFINED if count is UNDEFINED else " " * max(0, min(count, PAD_MAX))


def _replace(value: str, old: str, new: str) -> str:
    growth = (len(new) - len(old)) * value.count(old)
    if len(value) + growth > TEXT_CHARS_MAX:
        raise EvaluationError(f"a String grew beyond {TEXT_CHARS_MAX:,} characters")
    return value.replace(old, new)


def _upper(value: str) -> str:
    return joined([value.upper()])  # up to three letters for one


def _lower(value: str) -> str:
    return joined([value.lower()])


# ── taking apart ────────────────────────────────────────────────────────────────────────────────────────────


def _substring(value: Any, *bounds: Any) -> Any:
    value = text(value)
    positions = [index(bound) for bound in bounds]
    if value is UNDEFINED or UNDEFINED in positions:
        return UNDEFINED
    start, end, *_ = (max(0, min(position, len(value))) for position in (*positions, len(value)))
    return value[start:end]


def _indexof(value: Any, part: Any) -> Any:
    if value.__class__ in (list, dict):  # AWS: "only to strings"
        return UNDEFINED
    return _find(value, part)


_find = of_texts(str.find)


# ── base64 ──────────────────────────────────────────────────────────────────────────────────────────────────


def _octets(value: Any) -> Any:
    """A payload as it came; the UTF-8 of anything else that has a text."""
    converted = text(value)
    return value if value.__class__ is bytes else UNDEFINED if converted is UNDEFINED else converted.encode()


def _encode(value: Any, scheme: Any) -> Any:
    data = _octets(value)
    if data is UNDEFINED or scheme != BASE64:
        return UNDEFINED
    if len(data) > TEXT_CHARS_MAX // 4 * 3:
        raise EvaluationError(f"a String grew beyond {TEXT_CHARS_MAX:,} characters")
    return b64encode(data).decode()


def _decode(value: Any, scheme: Any) -> Any:
    """The JSON value in what `value` encodes, or the String that it is, or Null for what is neither."""
    data = _octets(value)
    if data is UNDEFINED or scheme != BASE64:
        return UNDEFINED
    try:
        decoded = b64decode(data + b"=" * (-len(data) % 4), validate=True)  # Java does not ask for the padding
        said = decoded.decode()
    except ValueError:
        return None
    try:
        return read(decoded)
    except ValueError:
        return joined([said])


FUNCTIONS = {
    "chr": Function(_chr, 1, 1),
    "concat": Function(_concat, 0, None),
    "decode": Function(_decode, 2, 2, since=SqlVersion.V2016, takes_payload=True),
    "encode": Function(_encode, 2, 2, since=SqlVersion.V2016, takes_payload=True),
    "endswith": Function(of_texts(str.endswith), 2, 2),
    "indexof": Function(_indexof, 2, 2, since=SqlVersion.V2016),
    "length": Function(of_texts(len), 1, 1, since=SqlVersion.V2016),
    "lower": Function(of_texts(_lower), 1, 1),
    "lpad": Function(_lpad, 2, 2),
    "ltrim": Function(of_texts(lambda value: value.lstrip(" \t")), 1, 1),
    "numbytes": Function(of_texts(lambda value: len(value.encode())), 1, 1, since=SqlVersion.V2016),
    "replace": Function(of_texts(_replace), 3, 3),
    "rpad": Function(_rpad, 2, 2),
    "rtrim": Function(of_texts(lambda value: value.rstrip(" \t")), 1, 1),
    "startswith": Function(of_texts(str.startswith), 2, 2),
    "substring": Function(_substring, 2, 3),
    "trim": Function(of_texts(str.strip), 1, 1),
    "upper": Function(of_texts(_upper), 1, 1),
}
