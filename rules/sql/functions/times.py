"""parse_time, a moment as text, and time_to_epoch, a text as a moment; in milliseconds since 1970 in UTC.

A pattern, a zone or a text that is not valid gives Undefined, as does a year outside of 1 to 9999. `timestamp()`, the
present moment, is with the functions of the message.
"""

from typing import Any

from rules.sql.functions.function import Function
from rules.sql.javatime.printing import printed
from rules.sql.javatime.resolving import milliseconds
from rules.sql.javatime.zones import joda_zone
from rules.sql.values import UNDEFINED, SqlVersion, index, text


def _parse_time(pattern: Any, moment: Any, zone: Any = "UTC") -> Any:
    wanted, since_1970, name = text(pattern), index(moment), text(zone)
    if wanted is UNDEFINED or since_1970 is UNDEFINED or name is UNDEFINED:
        return UNDEFINED
    where = joda_zone(name)
    result = None if where is None else printed(wanted, since_1970, where)
    return UNDEFINED if result is None else result


def _time_to_epoch(value: Any, pattern: Any) -> Any:
    said, wanted = text(value), text(pattern)
    result = None if said is UNDEFINED or wanted is UNDEFINED else milliseconds(said, wanted)
    return UNDEFINED if result is None else result


FUNCTIONS = {
    "parse_time": Function(_parse_time, 2, 3, since=SqlVersion.V2016),
    "time_to_epoch": Function(_time_to_epoch, 2, 2, since=SqlVersion.V2016),
}
