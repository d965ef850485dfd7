"""What the compiler knows of a function of IoT SQL: how it is called, since when, and what it may be given."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rules.sql.values import UNDEFINED, SqlVersion, text


@dataclass(frozen=True, slots=True)
class Function:
    """`call` takes `least` to `most` arguments (None: any number), the Event before them if `of_event`.

    A wrong type gives UNDEFINED; only what AWS lets fail a rule (a call that goes out, a text beyond its bound)
    raises EvaluationError. With constant arguments a function is called once, when the statement is compiled,
    unless it is `of_event`. `takes_payload`: an argument `*` is the payload's bytes as they came; elsewhere it is
    what they say in JSON. `as_is`: arguments are looked at or handed on but never written, so that the number rule
    of 2016-03-23, for which Arrays and Objects are copied, can wait until the output. `calls_out`: it asks the side
    that runs the rule (`rules.sql.functions.calls`).
    """

    call: Callable[..., Any]
    least: int
    most: int | None
    of_event: bool = False
    since: SqlVersion = SqlVersion.V2015
    takes_payload: bool = False
    as_is: bool = False
    calls_out: bool = False


def of_texts(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, which takes Strings, for any values: they are converted, and Undefined where one has no text."""

    def call(*values: Any) -> Any:
        texts = [text(value) for value in values]
        return UNDEFINED if UNDEFINED in texts else function(*texts)

    return call
