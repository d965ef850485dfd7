"""`tidegate functions` with a daemon that runs: calls, their logs, the status, and events that were given up."""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from tests.functions_command import Box, function
from tidegate.functions import app
from tidegate.processes import Daemon

pytestmark = pytest.mark.processes

DEADLINE = 30.0
CODE = """
import os

def handler(event, context):
    print("handling", event)
    if event.get("fail"):
        raise ValueError("no such reading")
    return {"event": event, "version": context.function_version, "stage": os.environ.get("STAGE"),
            "custom": context.client_context.custom if context.client_context else None}
"""


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    """A box whose edge runs, with two versions of `press`."""
    box = Box.make(tmp_path_factory.mktemp("box"))
    (box.path / "src" / "app.py").write_text(CODE)
    config = box.path / "edge.toml"
    edge = Daemon("edge", config, box.path / "data")
    edge.start()
    try:
        for stage in ("first", "second"):
            press = function(
                Environment={"Variables": {"STAGE": stage}}, EventInvokeConfig={"MaximumRetryAttempts": 0}, Timeout=20
            )
            assert "the daemon knows" in box.ok("deploy", box.template({"press": press}))
        yield box
    finally:
        edge.stop()


def invoke(box: Box, *arguments: str, event: str | None = "{}") -> Result:
    words = ["invoke", *arguments, "--config", str(box.path / "edge.toml")]
    return CliRunner().invoke(app, words, input=event, catch_exceptions=False)


def eventually(look: Callable[[], Any]) -> Any:
    """What `look` finds, as soon as it is something."""
    deadline = time.monotonic() + DEADLINE
    while not (found := look()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return found


def test_the_event_on_standard_input_gives_the_result_on_standard_output(box: Box) -> None:
    ended = invoke(box, "press", event='{"a": "ü"}')
    assert ended.exit_code == 0, ended.stderr
    assert json.loads(ended.stdout) == {"event": {"a": "ü"}, "version": "2", "stage": "second", "custom": None}
    assert ended.stderr == ""


def test_a_payload_may_stand_on_the_command_line_and_nothing_is_an_empty_event(box: Box) -> None:
    assert json.loads(invoke(box, "press", "--payload", '{"b": 2}').stdout)["event"] == {"b": 2}
    assert json.loads(invoke(box, "press", event="").stdout)["event"] == {}


def test_a_version_is_called_by_qualifier_or_in_the_name(box: Box) -> None:
    assert json.loads(invoke(box, "press", "--qualifier", "1").stdout)["stage"] == "first"
    assert json.loads(invoke(box, "press:1").stdout)["stage"] == "first"


def test_a_client_context_reaches_the_handler(box: Box) -> None:
    ended = invoke(box, "press", "--client-context", '{"custom": {"subject": "a/b"}}')
    assert json.loads(ended.stdout)["custom"] == {"subject": "a/b"}


def test_a_function_that_fails_gives_its_error_and_exit_code_1(box: Box) -> None:
    ended = invoke(box, "press", event='{"fail": true}')
    assert ended.exit_code == 1
    error = json.loads(ended.stdout)
    assert (error["errorType"], error["errorMessage"]) == ("ValueError", "no such reading")
    assert "press failed: Unhandled" in ended.stderr


def test_the_log_of_a_call_comes_with_it_on_standard_error(box: Box) -> None:
    ended = invoke(box, "press", "--log")
    assert "handling {}" in ended.stderr
    assert "REPORT RequestId: " in ended.stderr
    assert "handling" not in ended.stdout.splitlines()


def test_as_json_everything_that_is_known_is_one_document(box: Box) -> None:
    told = json.loads(invoke(box, "press", "--json", "--log").stdout)
    assert (told["status"], told["executed_version"], told["function_error"]) == (200, "2", "")
    assert told["payload"]["event"] == {}
    assert "END RequestId: " in told["log"]


def test_an_event_is_only_put_into_the_queue_and_its_log_found_by_the_id(box: Box) -> None:
    ended = invoke(box, "press", "--event", event='{"queued": 1}')
    assert ended.exit_code == 0
    request = ended.stdout.strip()
    printed = eventually(lambda: "REPORT" in (text := box.ok("logs", "press", "--request", request)) and text)
    assert "handling {'queued': 1}" in printed


@pytest.mark.parametrize(
    ("arguments", "event", "words"),
    [
        (("nobody",), "{}", "Function not found"),
        (("press", "--qualifier", "9"), "{}", "Function not found"),
        (("a b",), "{}", "is no name or ARN of a function"),
        (("press",), "no json", "Could not parse request body into json"),
        (("press",), json.dumps("x" * (6 << 20)), "the event has more than 6,291,456 bytes"),
    ],
)
def test_what_cannot_be_called_is_a_sentence_and_exit_code_1(
    box: Box, arguments: tuple[str, ...], event: str, words: str
) -> None:
    ended = invoke(box, *arguments, event=event)
    assert ended.exit_code == 1
    assert words in " ".join(ended.stderr.split())


def test_the_status_has_the_sandbox_and_the_numbers(box: Box) -> None:
    invoke(box, "press")
    told = box.json("status", "press")
    assert told["sandbox"]["mode"] == "default"
    assert told["functions"]
    assert "press" in box.ok("status")


def test_an_event_that_is_given_up_can_be_looked_at_replayed_and_dropped(box: Box) -> None:
    assert box.json("dead", "list") == []
    request = invoke(box, "press", "--event", event='{"fail": 1}').stdout.strip()
    [letter] = eventually(lambda: box.json("dead", "list"))
    assert (letter["request"], letter["function"]) == (request, "press")
    shown = box.json("dead", "show", letter["id"])
    assert json.loads(shown["payload"]) == {"fail": 1}
    assert "no such reading" in shown["response"]
    ended = box.run("dead", "replay", letter["id"], 998)
    assert ended.exit_code == 1
    assert ended.stdout == f"{letter['id']} is back in the queue\n"
    assert "998 is not among the dead events" in ended.stderr
    [again] = eventually(lambda: [each for each in box.json("dead", "list") if each["id"] != letter["id"]])
    assert "998, 999 are not among the dead events" in box.fails("dead", "drop", 998, 999)
    assert box.json("dead", "drop", again["id"]) == {"count": 1, "missing": []}
    assert box.json("dead", "list", "--function", "press") == []
    box.fails("dead", "drop", code=2)


def test_a_rollback_is_known_at_once(box: Box) -> None:
    assert "the daemon knows" in box.ok("rollback", "press")
    assert json.loads(invoke(box, "press").stdout)["stage"] == "first"
    box.ok("rollback", "press", "--to", 2)
    assert json.loads(invoke(box, "press").stdout)["stage"] == "second"


def test_without_a_daemon_a_call_says_so(tmp_path: Path) -> None:
    ended = invoke(Box.make(tmp_path), "press")
    assert ended.exit_code == 1
    assert "the daemon is not running" in ended.stderr
