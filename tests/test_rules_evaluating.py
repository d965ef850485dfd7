"""`tidegate rules eval --jsonl`: one answer for each line, whatever stands in it."""

import base64
import json
import subprocess
import sys
import uuid
from typing import Any

import pytest

from tests.rules_command import ROOT, rules
from tidegate.rules.evaluating import LINE_BYTES_MAX

BINARY = base64.b64encode(b"\xff\x00").decode()
DEEP = base64.b64encode(b'{"a":' * 900 + b"1" + b"}" * 900).decode()
STUBS = {
    "shadows": {"oven": {"state": {"reported": {"limit": 90}}}, "oven/door": {"state": {"reported": {"open": True}}}},
    "dynamodb": {"machines": [{"id": "m1", "line": 4, "owner": "Ada"}]},
    "lambda": {"arn:aws:lambda:eu-west-1:1:function:triage": {"level": 3}},
    "registry": {"DescribeThing": {"oven": {"thingTypeName": "kiln"}}},
    "secrets": {"token": {"SecretString": '{"key": "s3cret"}'}},
}
DIGITS = (
    b'{"id": "digits", "sql": "SELECT a, b, c, a + 1 AS d", "topic": "x", "payload": {"c": 1E400,'
    b' "a": 12345678901234567890123456789, "b": 0.1234567890123456789012345678901}}'
)
REQUESTS: list[Any] = [
    {"id": 1, "sql": "SELECT a AS x FROM 't/+' WHERE a > 1", "topic": "t/1", "payload": {"a": 2.0}},
    {"id": 2, "sql": "SELECT a AS x FROM 't/+' WHERE a > 1", "topic": "t/1", "payload": {"a": 1}},
    {"id": 3, "sql": "SELECT a FROM 't/#'", "topic": "t", "payload": {"a": 1}},
    {"id": {"any": ["id"]}, "sql": "SELECT 1 AS a", "topic": "t"},
    {"id": "no from", "sql": "SELECT *", "topic": "x", "payload": [1, None]},
    {"id": "bytes", "sql": "SELECT * FROM 'x'", "topic": "x", "payload_b64": BINARY},
    {"id": "empty", "sql": "SELECT * FROM 'x'", "topic": "x"},
    {"id": "text", "sql": "SELECT * FROM 'x'", "topic": "x", "payload_text": "{no json"},
    {"id": "2015", "sql": "SELECT a", "topic": "x", "payload": {"a": 2.0}, "sql_version": "2015-10-08"},
    {"id": "beta", "sql": "SELECT a", "topic": "x", "payload": {"a": 2.0}, "sql_version": "beta"},
    {
        "id": "templates", "sql": "SET @l = topic(2) SELECT 1 AS a", "topic": "x/é", "payload": {"b": {"c": [1, "d"]}},
        "templates": {"key": "k/${@l}/${missing}/${b}", "plain": "$${a}", "empty": ""},
    },
    {"id": "listed", "sql": "SELECT 1 AS a", "topic": "x", "templates": ["a/${topic()}", "b"]},
    {"id": "not rendered", "sql": "SELECT 1 AS a WHERE a = 1", "topic": "x", "templates": {"key": "${topic()}"}},
    {
        "id": "context", "topic": "x", "payload": {},
        "sql": "SELECT clientid() AS c, principal() AS p, accountid() AS a, traceid() AS t, sourceip() AS s,"
               " timestamp() AS at, get_mqtt_property('content_type') AS ct, get_mqtt_property('response_topic') AS r,"
               " get_mqtt_property('correlation_data') AS cd, get_mqtt_property('format_indicator') AS f,"
               " get_user_properties('k') AS k, get_user_properties() AS u, sql_version() AS v",
        "context": {
            "clientid": "oven", "principal": "ab" * 32, "accountid": "123456789012", "sourceip": "::1",
            "traceid": "e0a1f3b2-0000-4000-8000-000000000000", "timestamp": 1_700, "protocol": "mqtt",
            "mqtt5": {
                "content_type": "text/plain", "response_topic": "back", "correlation_data_b64": BINARY,
                "format_indicator": "UTF8_DATA", "user_properties": [["k", "1"], ["l", "2"], ["k", "3"]],
            },
        },
    },
    {
        "id": "http", "sql": "SELECT clientid() AS c, traceid() AS t", "topic": "x", "context": {"protocol": "http"},
    },
    {
        "id": "stubs", "topic": "x", "context": {"stubs": STUBS}, "payload": {"m": "m1"},
        "sql": "SELECT get_thing_shadow('oven', 'r').state.reported.limit AS a,"
               " get_thing_shadow('oven', 'door', 'r').state.reported.open AS b,"
               " get_dynamodb('machines', 'id', m, 'r').owner AS c,"
               " aws_lambda('arn:aws:lambda:eu-west-1:1:function:triage', *).level AS d,"
               " get_registry_data('DescribeThing', 'oven', 'r').thingTypeName AS e,"
               " get_secret('token', 'SecretString', 'key', 'r') AS f",
    },
    {"id": "chance", "sql": "SELECT newuuid() AS u, rand() AS r, traceid() AS t", "topic": "x"},
    {
        "id": "basic ingest", "sql": "SELECT topic() AS t, topic(1) AS first FROM 'other'",
        "topic": "$aws/rules/Hot/a/b", "context": {"rule_name": "Hot"}, "templates": {"t": "${topic(2)}"},
    },
    {"id": "other rule", "sql": "SELECT 1 AS a", "topic": "$aws/rules/Hot/a", "context": {"rule_name": "Cold"}},
    {"id": "unnamed", "sql": "SELECT 1 AS a FROM '#'", "topic": "$aws/rules/Hot/a"},
    {"id": "only basic ingest", "sql": "SELECT topic() AS t", "topic": "$aws/rules/Hot/a"},
    {"id": "nulls", "sql": "SELECT a", "topic": "x", "payload": None, "context": None, "templates": None},
    DIGITS,
    b'{"id": "twice", "sql": "SELECT a", "topic": "x", "payload": {"a": 1, "a": 2}}',
    b"  \t",
    b"not json",
    b'["a list"]',
    b"\xff\xfe",
    b'{"id": "nan", "sql": "SELECT a", "topic": "x", "payload": NaN}',
    b"[" * 100_000,
    b'{"id": "long", "sql": "' + b"x" * LINE_BYTES_MAX + b'"}',
    {"id": "sql", "sql": "SELECT a\nFROM 'x'\nWHERE CASE", "topic": "x", "payload": {}},
    {"id": "function", "sql": "SELECT uper(a) AS b", "topic": "x"},
    {"id": "template", "sql": "SELECT a", "topic": "x", "payload": {}, "templates": {"one": "${a", "two": "b"}},
    {"id": "window", "sql": "SELECT count(*) AS n FROM 'x' GROUP BY TUMBLING('1 minute')", "topic": "x", "payload": {}},
    {"id": "topic", "sql": "SELECT a", "payload": {}},
    {"id": "wildcard", "sql": "SELECT a", "topic": "a/#"},
    {"id": "version", "sql": "SELECT a", "topic": "a", "sql_version": "2020-01-01"},
    {"id": "base64", "sql": "SELECT a", "topic": "a", "payload_b64": "!"},
    {"id": "payloads", "sql": "SELECT a", "topic": "a", "payload_b64": "", "payload": 1},
    {"id": "unknown", "sql": "SELECT a", "topic": "a", "qos": 1},
    {"id": "protocol", "sql": "SELECT a", "topic": "a", "context": {"protocol": "amqp"}},
    {"id": "clientid", "sql": "SELECT a", "topic": "a", "context": {"clientid": 5}},
    {"id": "context key", "sql": "SELECT a", "topic": "a", "context": {"client_id": "x"}},
    {"id": "time", "sql": "SELECT a", "topic": "a", "context": {"timestamp": -1}},
    {"id": "pair", "sql": "SELECT a", "topic": "a", "context": {"mqtt5": {"user_properties": [["a"]]}}},
    {"id": "no stub", "sql": "SELECT get_secret('x', 'SecretString', 'r') AS a", "topic": "a"},
    {
        "id": "failing template", "sql": "SELECT 1 AS a", "topic": "a",
        "templates": {"t": "${get_secret('x', 'SecretString', 'r')}"},
    },
    {"id": "deep", "sql": "SELECT a", "topic": "a", "payload_b64": DEEP},
    {"id": "last", "sql": "SELECT 9223372036854775807 * 2 AS x", "topic": "a"},
]  # fmt: skip


def name(identity: Any) -> Any:
    return json.dumps(identity) if isinstance(identity, dict) else identity


@pytest.fixture(scope="module")
def answers() -> dict[Any, Any]:
    """The answers by id; under None those that have none."""
    lines = [request if isinstance(request, bytes) else json.dumps(request).encode() for request in REQUESTS]
    done = rules("eval", "--jsonl", stdin=b"\n".join(lines))
    assert (done.returncode, done.stderr) == (0, b"")
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(found) == len(REQUESTS) - 1  # a blank line has no answer
    nameless = [answer for answer in found if answer["id"] is None]
    return {name(answer["id"]): answer for answer in found if answer["id"] is not None} | {None: nameless}


@pytest.mark.parametrize(
    ("identity", "answer"),
    [
        (1, {"matched": True, "payload": {"x": 2}}),
        (2, {"matched": False}),
        (3, {"matched": False}),
        ({"any": ["id"]}, {"matched": True, "payload": {"a": 1}}),
        ("no from", {"matched": True, "payload": [1, None]}),
        ("bytes", {"matched": True, "payload_b64": "/wA="}),
        ("empty", {"matched": True, "payload_b64": ""}),
        ("text", {"matched": True, "payload_b64": base64.b64encode(b"{no json").decode()}),
        ("2015", {"matched": True, "payload": {"a": 2.0}}),
        ("beta", {"matched": True, "payload": {"a": 2}}),
        ("templates", {
            "matched": True, "payload": {"a": 1},
            "templates": {"key": 'k/é//{"c":[1,"d"]}', "plain": "$", "empty": ""},
        }),
        ("listed", {"matched": True, "payload": {"a": 1}, "templates": ["a/x", "b"]}),
        ("not rendered", {"matched": False}),
        ("context", {"matched": True, "payload": {
            "c": "oven", "p": "ab" * 32, "a": "123456789012", "t": "e0a1f3b2-0000-4000-8000-000000000000", "s": "::1",
            "at": 1_700, "ct": "text/plain", "r": "back", "cd": BINARY, "f": "UTF8_DATA", "k": ["1", "3"],
            "u": [{"k": "1"}, {"l": "2"}, {"k": "3"}], "v": "2016-03-23",
        }}),
        ("http", {"matched": True, "payload": {"c": "n/a"}}),
        ("stubs", {"matched": True, "payload": {"a": 90, "b": True, "c": "Ada", "d": 3, "e": "kiln", "f": "s3cret"}}),
        ("basic ingest", {"matched": True, "payload": {"t": "a/b", "first": "a"}, "templates": {"t": "b"}}),
        ("other rule", {"matched": False}),
        ("unnamed", {"matched": False}),
        ("only basic ingest", {"matched": True, "payload": {"t": "a"}}),
        ("nulls", {"matched": True, "payload": {}}),
        ("twice", {"matched": True, "payload": {"a": 2}}),
        ("last", {"matched": True, "payload": {"x": 18446744073709551614}}),
    ],
)  # fmt: skip
def test_a_request_is_answered(answers: dict[Any, Any], identity: Any, answer: dict[str, Any]) -> None:
    found = answers[name(identity)]
    assert found == {"id": identity, **answer}
    assert json.dumps(found, sort_keys=True) == json.dumps({"id": identity, **answer}, sort_keys=True)  # 2 is not 2.0


def test_no_digit_of_a_number_is_lost() -> None:
    written = rules("eval", "--jsonl", stdin=DIGITS).stdout.decode()
    assert '"a":12345678901234567890123456789,"b":0.1234567890123456789012345678901,"c":1E+400' in written
    assert '"d":12345678901234567890123456790' in written


def test_what_is_random_is_random_here_too(answers: dict[Any, Any]) -> None:
    payload = answers["chance"]["payload"]
    assert uuid.UUID(payload["u"]).version == 4
    assert uuid.UUID(payload["t"]) != uuid.UUID(payload["u"])
    assert 0 <= payload["r"] <= 1


@pytest.mark.parametrize(
    ("identity", "message", "line", "column"),
    [
        ("sql", "expected", 3, 11),
        ("function", "did you mean upper()?", 1, 8),
        ("template", "templates.one: expected the } that ends ${…}, found the end", 1, 4),
        ("window", "`rules test`", 1, 31),
        ("topic", "topic: is missing", None, None),
        ("wildcard", "topic 'a/#' holds a wildcard", None, None),
        ("version", "sql_version: write 2015-10-08 or 2016-03-23 or beta, not '2020-01-01'", None, None),
        ("base64", "payload_b64: is not base64", None, None),
        ("payloads", "write one of payload, payload_text, payload_b64", None, None),
        ("unknown", "qos: unknown key", None, None),
        ("protocol", "context.protocol: must be 'mqtt' or 'http'", None, None),
        ("clientid", "context.clientid: must be text", None, None),
        ("context key", "context.client_id: unknown key; did you mean 'clientid'?", None, None),
        ("time", "context.timestamp: must be greater than or equal to 0", None, None),
        ("pair", "context.mqtt5.user_properties[0]: ", None, None),
        ("no stub", "there is no secret 'x'", None, None),
        ("failing template", "there is no secret 'x'", None, None),
        ("deep", "nested too deeply", None, None),
    ],
)
def test_a_wrong_request_is_told_what_is_wrong(
    answers: dict[Any, Any], identity: str, message: str, line: int | None, column: int | None
) -> None:
    assert answers[identity].keys() == {"id", "error"}
    error = answers[identity]["error"]
    assert message in error["message"]
    assert (error["line"], error["column"]) == (line, column)


def test_a_line_that_is_no_request_is_answered_and_the_next_one_too(answers: dict[Any, Any]) -> None:
    messages = [answer["error"]["message"] for answer in answers[None]]
    assert len(messages) == 6
    assert all("not a line of JSON" in messages[number] for number in (0, 2, 3, 4))
    assert messages[1] == "must be an object, not a list"
    assert "4,194,304 bytes" in messages[5]
    assert "last" in answers


def test_an_answer_is_there_before_the_next_request_is_asked() -> None:
    command = [sys.executable, "-m", "tidegate.main", "rules", "eval", "--jsonl"]
    request = b'{"id": %d, "sql": "SELECT 1 AS a", "topic": "x"}\n'
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for number in range(3):
            process.stdin.write(request % number)
            process.stdin.flush()
            assert json.loads(process.stdout.readline())["id"] == number
        process.stdin.close()
        assert process.wait(30) == 0


def test_eval_without_jsonl_says_how_to_use_it() -> None:
    done = rules("eval")
    assert done.returncode == 2
    assert b"--jsonl" in done.stderr


def test_eval_without_a_standard_input_has_nothing_to_answer() -> None:
    command = [sys.executable, "-m", "tidegate.main", "rules", "eval", "--jsonl"]
    done = subprocess.run(["sh", "-c", '"$@" <&-', "sh", *command], capture_output=True, cwd=ROOT, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
