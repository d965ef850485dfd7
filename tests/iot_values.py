"""Any value that a rule may meet, for tests that promise something for all of them."""

from decimal import Decimal
from typing import Any

from hypothesis import strategies as st

from rules.sql.decimals import INT_MAX, settled
from rules.sql.values import UNDEFINED

NUMBERS: st.SearchStrategy[Any] = (
    st.integers(-INT_MAX, INT_MAX)
    | st.integers(-100, 100)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.decimals(allow_nan=False, allow_infinity=False, min_value=Decimal("-9E999"), max_value=Decimal("9E999")).map(
        settled
    )
    | st.builds(lambda digits, exponent: settled(Decimal(f"{digits}E{exponent}")), st.integers(1, INT_MAX),
                st.integers(-1100, 960))
)  # fmt: skip
TEXTS = (
    st.text(max_size=40)
    | st.from_regex(r"-?[0-9]{1,40}(\.[0-9]{1,40})?([eE]-?[0-9]{1,6})?", fullmatch=True)
    | st.sampled_from(["true", "FALSE", "base64", "enrichArray", "aGVsbG8=", "", " \t x "])
)
DEFINED: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)
ANY: st.SearchStrategy[Any] = DEFINED | st.just(UNDEFINED) | st.binary(max_size=20)


def is_canonical(value: Any) -> bool:
    """Whether `value` is one that the language has, in the one form it has here."""
    if isinstance(value, bool) or value is None or value is UNDEFINED or isinstance(value, str | bytes):
        return True
    if isinstance(value, int):
        return abs(value) <= INT_MAX
    if isinstance(value, float | Decimal):
        number = Decimal(repr(value)) if isinstance(value, float) else value
        as_settled = settled(number) if number.is_finite() and abs(number) < Decimal("1E1000") else None
        return type(as_settled) is type(value) and as_settled == value
    if isinstance(value, list):
        return all(item is not UNDEFINED and is_canonical(item) for item in value)
    return isinstance(value, dict) and all(
        isinstance(key, str) and item is not UNDEFINED and is_canonical(item) for key, item in value.items()
    )
