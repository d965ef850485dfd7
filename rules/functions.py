"""The functions of IoT SQL: one table from name to what it does and how many arguments it takes.

A wrong type or a wrong number of arguments gives Undefined, as AWS documents, never an error. Functions of
AWS that are not here yet are known by name, so that a statement that uses one is refused with the right
reason.

Will not read clocks or networks: what a function wants to know about the message is in the `Event`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rules.event import Event
from rules.values import UNDEFINED, SqlVersion, index, joined, number, settle, text


@dataclass(frozen=True, slots=True)
class Function:
    """`call` takes `least` to `most` arguments (None: any number), the Event before them if `of_event`."""

    call: Callable[..., Any]
    least: int
    most: int | None
    of_event: bool = False
    since: SqlVersion = SqlVersion.V2015


# ── the message and its moment ──────────────────────────────────────────────────────────────────────────────


def _topic(event: Event, *position: Any) -> Any:
    if not position:
        return event.message.topic
    at = index(position[0])
    return event.levels[at - 1] if at is not UNDEFINED and 1 <= at <= len(event.levels) else UNDEFINED


def _timestamp(event: Event) -> int:
    return event.now_ms


def _clientid(event: Event) -> str:
    return event.message.client_id or "n/a"


# ── numbers ─────────────────────────────────────────────────────────────────────────────────────────────────


def _of_number(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def call(value: Any) -> Any:
        converted = number(value)
        return UNDEFINED if converted is UNDEFINED else settle(function(converted))

    return call


def _rounded(value: float) -> int:
    # Half away from zero, as AWS's examples have it; Python's own round() goes to the even neighbour.
    size = abs(value)
    up = math.floor(size) + (size - math.floor(size) >= 0.5)
    return up if value >= 0 else -up


# ── text ────────────────────────────────────────────────────────────────────────────────────────────────────


def _of_text(function: Callable[[str], str]) -> Callable[[Any], Any]:
    def call(value: Any) -> Any:
        converted = text(value)
        return UNDEFINED if converted is UNDEFINED else function(converted)

    return call


def _concat(*values: Any) -> Any:
    if not values or any(value is UNDEFINED for value in values):
        return UNDEFINED
    if any(value.__class__ is list for value in values):
        return [item for value in values for item in (value if value.__class__ is list else [value])]
    parts = [text(value) for value in values]
    return UNDEFINED if UNDEFINED in parts else joined(parts)


# ── the tables ──────────────────────────────────────────────────────────────────────────────────────────────

FUNCTIONS = {
    "abs": Function(_of_number(abs), 1, 1),
    "ceil": Function(_of_number(math.ceil), 1, 1),
    "clientid": Function(_clientid, 0, 0, of_event=True),
    "concat": Function(_concat, 0, None),
    "floor": Function(_of_number(math.floor), 1, 1),
    "isnull": Function(lambda value: value is None, 1, 1),
    "isundefined": Function(lambda value: value is UNDEFINED, 1, 1, since=SqlVersion.V2016),
    "lower": Function(_of_text(str.lower), 1, 1),
    "round": Function(_of_number(_rounded), 1, 1),
    "timestamp": Function(_timestamp, 0, 0, of_event=True),
    "topic": Function(_topic, 0, 1, of_event=True),
    "upper": Function(_of_text(str.upper), 1, 1),
}

NOT_YET = frozenset(
    (
        "accountid",
        "acos",
        "asin",
        "atan",
        "atan2",
        "aws_lambda",
        "bitand",
        "bitnot",
        "bitor",
        "bitxor",
        "chr",
        "cos",
        "cosh",
        "decode",
        "encode",
        "endswith",
        "exp",
        "get",
        "get_dynamodb",
        "get_mqtt_property",
        "get_or_default",
        "get_registry_data",
        "get_secret",
        "get_thing_shadow",
        "get_user_properties",
        "indexof",
        "length",
        "ln",
        "log",
        "lpad",
        "ltrim",
        "machinelearning_predict",
        "md2",
        "md5",
        "mod",
        "nanvl",
        "newuuid",
        "numbytes",
        "parse_time",
        "power",
        "principal",
        "rand",
        "regexp_matches",
        "regexp_replace",
        "regexp_substr",
        "remainder",
        "replace",
        "rpad",
        "rtrim",
        "sha1",
        "sha224",
        "sha256",
        "sha384",
        "sha512",
        "sign",
        "sin",
        "sinh",
        "sourceip",
        "sql_version",
        "sqrt",
        "startswith",
        "substring",
        "tan",
        "tanh",
        "time_to_epoch",
        "traceid",
        "transform",
        "trim",
        "trunc",
    )
)
