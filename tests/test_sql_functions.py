"""The functions of IoT SQL together: all of AWS's are there, and each answers for everything."""

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from core.message import Message
from rules.engine import Event
from rules.errors import EvaluationError
from rules.sql.functions import FUNCTIONS, REFUSED
from rules.sql.payloads import json_bytes
from rules.sql.values import UNDEFINED
from tests.iot_values import ANY

DOCUMENTED = """
    abs accountid acos asin atan atan2 aws_lambda bitand bitor bitxor bitnot ceil chr clientid concat cos cosh decode
    encode endswith exp floor get get_dynamodb get_mqtt_property get_or_default get_registry_data get_secret
    get_thing_shadow get_user_properties indexof isnull isundefined length ln log lower lpad ltrim
    machinelearning_predict md2 md5 mod nanvl newuuid numbytes parse_time power principal rand regexp_matches
    regexp_replace regexp_substr remainder replace round rpad rtrim sha1 sha224 sha256 sha384 sha512 sign sin sinh
    sourceip sql_version sqrt startswith substring tan tanh time_to_epoch timestamp topic traceid transform trim trunc
    upper
"""


class FixedChance:
    """The same random values each time."""

    def random(self) -> float:
        return 0.25

    def uuid(self) -> str:
        return "00000000-0000-4000-8000-000000000000"


def test_every_documented_function_is_there_or_refused_with_a_reason_and_no_other() -> None:
    assert FUNCTIONS.keys() | REFUSED.keys() == set(DOCUMENTED.split())
    assert FUNCTIONS.keys() & REFUSED.keys() == {"decode"}


@settings(max_examples=1_000)
@given(st.sampled_from(sorted(FUNCTIONS)), st.lists(ANY, max_size=4))
def test_every_function_answers_for_all_values(name: str, values: list[Any]) -> None:
    function = FUNCTIONS[name]
    arguments = values[: function.most] if function.most is not None else values
    if len(arguments) < function.least or (not function.takes_payload and any(v.__class__ is bytes for v in values)):
        return  # the compiler sees to that
    event = Event(Message("plant/press/oven", b"{}", client_id="device-7"), 1_700_000_000_123, chance=FixedChance())
    try:
        answer = function.call(event, *arguments) if function.of_event else function.call(*arguments)
    except EvaluationError:
        return  # a call that goes out, or a bound
    assert answer is UNDEFINED or answer.__class__ is bytes or json_bytes(answer)
