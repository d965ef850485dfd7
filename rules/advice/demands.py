"""What an action needs of the output, held against what the statement can give."""

from collections.abc import Iterator, Mapping

from rules.actions import Action, InfluxDB, Sns
from rules.actions.fields import Place
from rules.advice.finding import Finding
from rules.advice.shapes import ARRAY, OBJECT, UNDEFINED, Shape, shape
from rules.engine import Rule

# Actions that write an object's members one by one, or one document: another output cannot be written.
_OF_OBJECTS = frozenset(("dynamoDBv2", "timestream", "openSearch", "elasticsearch", "lambda", "iotEvents"))
_NAMED = "write SELECT … AS … and not SELECT VALUE"
_BATCHING = frozenset(("firehose", "iotAnalytics", "iotEvents", "cloudwatchLogs"))


def advise(rule: Rule, tables: Mapping[str, tuple[str, ...]]) -> Iterator[Finding]:
    """What the actions of a rule cannot do with its output; `tables` are the keys of those tables that are known."""
    output = shape(rule.statement)
    for position, action in enumerate(rule.actions):
        place = ("actions", position, action.name)
        for code, message, suggestion in _complaints(action, output, tables):
            yield Finding(rule.name, code, _where(action, place, code), message, suggestion)


def _complaints(
    action: Action, output: Shape, tables: Mapping[str, tuple[str, ...]]
) -> Iterator[tuple[str, str, str]]:
    batch = getattr(action, "batch_mode", False) and action.name in _BATCHING
    if batch and not output.can_be(ARRAY):
        yield "no-array", "batchMode is for arrays, and the statement never gives one", "write SELECT VALUE of an array"
    elif action.name in _OF_OBJECTS and not batch and not output.can_be(OBJECT):
        yield "no-object", f"{action.name} needs an object, and the statement gives {_list(output)}", _NAMED
    elif isinstance(action, InfluxDB) and not output.can_be(OBJECT, ARRAY):
        yield "no-object", f"influxDB needs objects, and the statement gives {_list(output)}", _NAMED
    else:
        for member, why in _members(action, tables):
            if not output.can_be(ARRAY) and not output.can_have(member):
                yield "no-member", f"{why} {member!r}, which the statement never gives", f"add {member} to the SELECT"


def _members(action: Action, tables: Mapping[str, tuple[str, ...]]) -> Iterator[tuple[str, str]]:
    """The members that an action cannot do without, and why."""
    if isinstance(action, Sns) and action.message_format == "JSON":
        yield "default", "messageFormat JSON needs the member"
    if isinstance(action, InfluxDB):
        yield "timestamp", "influxDB needs the member"
    if action.name == "dynamoDBv2":
        table = action.put_item.table_name  # type: ignore[attr-defined]
        for key in tables.get(table, ()):
            yield key, f"the key of the table {table} has"


def _where(action: Action, place: Place, code: str) -> Place:
    """The parameter that is to blame."""
    if code == "no-array":
        return (*place, "batchMode")
    if code == "no-member" and isinstance(action, Sns):
        return (*place, "messageFormat")
    if code == "no-member" and action.name == "dynamoDBv2":
        return (*place, "putItem", "tableName")
    return place


def _list(output: Shape) -> str:
    return " or ".join(sorted(output.kinds - {UNDEFINED})) or UNDEFINED
