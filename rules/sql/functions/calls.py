"""The functions that ask somebody else: shadows, tables, functions, the registry, secrets.

What they may be given is decided here, and what becomes of an answer; the answers come from `Event.calls`, which the
edge and the cloud provide. Each request is made once per message. A request that is refused or not answered raises
CallFailed and fails the rule. A wrong type is Undefined, and then nobody is asked.

The last argument of AWS's functions, a roleArn, means nothing here and may be left out.
"""

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from rules.errors import CallFailed
from rules.event import Calls, Event
from rules.sql.functions.function import Function
from rules.sql.payloads import json_bytes, read
from rules.sql.values import UNDEFINED, SqlVersion, same

__all__ = ["CALLING", "FUNCTIONS", "Calls", "Stubs", "Unanswered"]

REGISTRY_APIS = ("DescribeThing", "ListThingGroupsForThing")
SECRET_KINDS = ("SecretString", "SecretBinary")

_KEYS = frozenset((str, int, float, Decimal))  # a table's key is a string or a number, beside bytes


def _thing_shadow(event: Event, thing: Any, *rest: Any) -> Any:
    shadow = rest[0] if len(rest) == 2 else None  # (thing, roleArn) and (thing, shadow, roleArn)
    if thing.__class__ is not str or (shadow is not None and shadow.__class__ is not str):
        return UNDEFINED
    return event.answer(("shadow", thing, shadow), lambda calls: calls.get_thing_shadow(thing, shadow))


def _dynamodb(event: Event, table: Any, *rest: Any) -> Any:
    pairs = list(zip(rest[0:4:2], rest[1:4:2], strict=False))  # an odd one out is the roleArn
    if table.__class__ is not str or not all(name.__class__ is str and _is_key(value) for name, value in pairs):
        return UNDEFINED
    key = dict(pairs)
    return event.answer(("dynamodb", table, json_bytes(key)), lambda calls: calls.get_dynamodb(table, key))


def _is_key(value: Any) -> bool:
    return value.__class__ in _KEYS


def _lambda(event: Event, arn: Any, payload: Any) -> Any:
    if arn.__class__ is not str or payload is UNDEFINED or payload.__class__ is bytes:
        return UNDEFINED
    return event.answer(("lambda", arn, json_bytes(payload)), lambda calls: calls.aws_lambda(arn, payload))


def _registry_data(event: Event, api: Any, thing: Any, *_role: Any) -> Any:
    if api.__class__ is not str or thing.__class__ is not str:
        return UNDEFINED
    if api not in REGISTRY_APIS:
        raise CallFailed(f"get_registry_data: there is {' and '.join(REGISTRY_APIS)}, not {api[:40]!r}")
    return event.answer(("registry", api, thing), lambda calls: calls.get_registry_data(api, thing))


def _secret(event: Event, secret_id: Any, kind: Any, *rest: Any) -> Any:
    key = rest[0] if len(rest) == 2 else None  # (id, kind, roleArn) and (id, kind, key, roleArn)
    if secret_id.__class__ is not str or kind not in SECRET_KINDS or (key is not None and key.__class__ is not str):
        return UNDEFINED
    secret = event.answer(("secret", secret_id), lambda calls: calls.get_secret(secret_id))
    if key is None:
        return secret.get(kind, UNDEFINED)
    if kind == "SecretBinary":
        raise CallFailed(f"get_secret: the key {key[:40]!r} is for a SecretString, not a SecretBinary")
    return _member(secret, secret_id, key)


def _member(secret: Mapping[str, str], secret_id: str, key: str) -> Any:
    try:
        members = read(secret.get("SecretString", "").encode())
    except ValueError:
        members = None
    if not isinstance(members, dict):
        raise CallFailed(f"get_secret: {secret_id[:80]!r} is no JSON object, and has no key {key[:40]!r}")
    return members.get(key, UNDEFINED)


FUNCTIONS = {
    "aws_lambda": Function(_lambda, 2, 2, of_event=True, calls_out=True),
    "get_dynamodb": Function(_dynamodb, 3, 6, of_event=True, since=SqlVersion.V2016, calls_out=True),
    "get_registry_data": Function(_registry_data, 2, 3, of_event=True, since=SqlVersion.V2016, calls_out=True),
    "get_secret": Function(_secret, 2, 4, of_event=True, calls_out=True),
    "get_thing_shadow": Function(_thing_shadow, 1, 3, of_event=True, since=SqlVersion.V2016, calls_out=True),
}

CALLING = frozenset(FUNCTIONS)


class Unanswered:
    """A side that runs none of these functions, or those that a subclass has methods for and lists in `names`."""

    names: frozenset[str] = frozenset()

    def get_thing_shadow(self, thing: str, shadow: str | None) -> Any:
        """Nobody knows."""
        raise CallFailed("get_thing_shadow() cannot be run here")

    def get_dynamodb(self, table: str, key: dict[str, Any]) -> Any:
        """Nobody knows."""
        raise CallFailed("get_dynamodb() cannot be run here")

    def aws_lambda(self, arn: str, payload: Any) -> Any:
        """Nobody knows."""
        raise CallFailed("aws_lambda() cannot be run here")

    def get_registry_data(self, api: str, thing: str) -> Any:
        """Nobody knows."""
        raise CallFailed("get_registry_data() cannot be run here")

    def get_secret(self, secret_id: str) -> dict[str, str]:
        """Nobody knows."""
        raise CallFailed("get_secret() cannot be run here")


class Stubs:
    """Answers written down beforehand, the `stubs` of `tidegate rules eval` and of rules' tests:

        {"shadows": {"thing" or "thing/name": document}, "dynamodb": {table: [items]}, "lambda": {arn: reply},
         "registry": {api: {thing: reply}}, "secrets": {id: {"SecretString" or "SecretBinary": text}}}

    What is not written down is not there: no item, else CallFailed.
    """

    names = CALLING

    def __init__(self, stubs: Mapping[str, Any]) -> None:
        self._stubs = stubs

    def get_thing_shadow(self, thing: str, shadow: str | None) -> Any:
        """The document of the thing's shadow."""
        name = thing if shadow is None else f"{thing}/{shadow}"
        return self._find(f"no shadow {name[:80]!r}", "shadows", name)

    def get_dynamodb(self, table: str, key: dict[str, Any]) -> Any:
        """The first item of the table that has this key."""
        for item in self._find(f"no table {table[:80]!r}", "dynamodb", table):
            if all(name in item and same(item[name], value) for name, value in key.items()):
                return item
        return UNDEFINED

    def aws_lambda(self, arn: str, payload: Any) -> Any:
        """The function's reply, whatever the payload."""
        return self._find(f"no function {arn[:80]!r}", "lambda", arn)

    def get_registry_data(self, api: str, thing: str) -> Any:
        """The reply for the thing."""
        return self._find(f"no {api} of thing {thing[:80]!r}", "registry", api, thing)

    def get_secret(self, secret_id: str) -> Any:
        """The secret."""
        return self._find(f"no secret {secret_id[:80]!r}", "secrets", secret_id)

    def _find(self, missing: str, *path: str) -> Any:
        found: Any = self._stubs
        for name in path:
            if not isinstance(found, Mapping) or name not in found:
                raise CallFailed(f"there is {missing}")
            found = found[name]
        return found
