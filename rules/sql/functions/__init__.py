"""The functions of IoT SQL: one table from lower-case name to what it does, and those that are refused by name.

A wrong type or a wrong number of arguments gives Undefined, as AWS documents, never an error.

Will not read clocks or networks: what a function wants to know about the message is in the `Event`.
"""

from rules.sql.functions import calls, context, hashes, numeric, regexes, strings, structures, times
from rules.sql.functions.function import Function

__all__ = ["FUNCTIONS", "REFUSED", "Function"]

FUNCTIONS: dict[str, Function] = {
    **calls.FUNCTIONS,
    **context.FUNCTIONS,
    **hashes.FUNCTIONS,
    **numeric.FUNCTIONS,
    **regexes.FUNCTIONS,
    **strings.FUNCTIONS,
    **structures.FUNCTIONS,
    **times.FUNCTIONS,
}

REFUSED = {
    "decode": "Protocol Buffers need a descriptor from S3, which is not read here",
    "machinelearning_predict": "Amazon Machine Learning does not exist any more",
}
