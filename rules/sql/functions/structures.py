"""Functions of Arrays and Objects, and of values that may be missing."""

from typing import Any

from rules.errors import EvaluationError
from rules.sql.functions.function import Function
from rules.sql.payloads import json_bytes
from rules.sql.values import UNDEFINED, SqlVersion, member, nearest, truncated

TRANSFORM_BYTES_MAX = 128 * 1024  # AWS: "the result is at most 128 KiB"
_MEMBER_BYTES_MIN = len('"":0,')


def _get(value: Any, key: Any) -> Any:
    """The character of a String or the item of an Array at a position from 0, or the member of an Object."""
    if value.__class__ is dict:
        return member(value, key) if key.__class__ is str else UNDEFINED
    if value.__class__ is not list and value.__class__ is not str:
        return UNDEFINED
    position = truncated(key) if key.__class__ is str else nearest(key)
    return value[position] if position is not UNDEFINED and 0 <= position < len(value) else UNDEFINED


def _transform(mode: Any, added: Any, items: Any) -> Any:
    """Every Object of the Array `items` with the members of the Object `added` that it does not have itself.

    Raises EvaluationError for a result of more than 128 KiB of JSON.
    """
    if mode != "enrichArray" or added.__class__ is not dict or items.__class__ is not list:
        return UNDEFINED
    if any(item.__class__ is not dict for item in items):
        return UNDEFINED
    if len(items) * len(added) * _MEMBER_BYTES_MIN > TRANSFORM_BYTES_MAX:  # too large before it is built
        raise _too_large()
    enriched = [{**added, **item} for item in items]
    if len(json_bytes(enriched)) > TRANSFORM_BYTES_MAX:
        raise _too_large()
    return enriched


def _too_large() -> EvaluationError:
    return EvaluationError(f"the result of transform() is larger than {TRANSFORM_BYTES_MAX:,} bytes")


def _get_or_default(value: Any, default: Any = UNDEFINED) -> Any:
    """`default` for Null and Undefined. The compiler sees to it that a `value` that fails is Undefined here."""
    return default if value is None or value is UNDEFINED else value


FUNCTIONS = {
    "get": Function(_get, 2, 2, as_is=True),
    "get_or_default": Function(_get_or_default, 1, 2, since=SqlVersion.V2016),
    "isnull": Function(lambda value: value is None, 1, 1, as_is=True),
    "isundefined": Function(lambda value: value is UNDEFINED, 1, 1, since=SqlVersion.V2016, as_is=True),
    "transform": Function(_transform, 3, 3, since=SqlVersion.V2016),
}
