"""What functions hear of MQTT: every message of a topic they subscribed to, and requests, answered to who asked."""

from collections.abc import Callable
from typing import Any

import orjson

from core.message import Message, Properties
from core.telemetry import Counters
from functions.errors import FunctionNotFound, Throttled
from functions.invocations import Ending, Result
from functions.manifest import Manifest
from functions.names import FunctionName
from functions.subscriptions import Subscriptions


class Site:
    """Notes what it is asked; requests end with `result`."""

    def __init__(self, result: Result | None = None) -> None:
        self.result = result or Result(Ending.SUCCESS, b'"done"', "3")
        self.called: list[tuple[str, bytes, Any]] = []
        self.told: list[tuple[str, Message]] = []
        self.counters = Counters()
        self.subscriptions = Subscriptions(self.call, self.request, self.reply, self.counters)

    def call(self, name: FunctionName, payload: bytes, context: bytes) -> str:
        if name.name == "full":
            raise Throttled("the queue is full")
        self.called.append((str(name), payload, orjson.loads(context)))
        return "id"

    def request(self, name: FunctionName, payload: bytes, context: bytes, done: Callable[[Result], None]) -> None:
        if name.name == "nobody":
            raise FunctionNotFound("Function not found: nobody")
        done(self.result)

    def reply(self, client_id: str, message: Message) -> None:
        self.told.append((client_id, message))


def manifest(name: str, *topics: str, alias: str | None = None) -> Manifest:
    return Manifest(name=name, version=1, runtime="python3.11", handler="app.handler", topics=topics, alias=alias)


def test_a_function_hears_the_topics_that_it_subscribed_to_with_the_topic_as_subject() -> None:
    site = Site()
    site.subscriptions.replace([manifest("uptime", "plant/+/state"), manifest("live", "plant/#", alias="prod")])
    site.subscriptions.hear([Message("plant/3/state", b"on"), Message("office/3/state", b"on")])
    assert sorted(site.called) == [
        ("live:prod", b"on", {"custom": {"subject": "plant/3/state"}}),
        ("uptime", b"on", {"custom": {"subject": "plant/3/state"}}),
    ]


def test_what_nobody_subscribes_to_any_more_is_not_heard() -> None:
    site = Site()
    site.subscriptions.replace([manifest("uptime", "plant/#")])
    site.subscriptions.replace([])
    site.subscriptions.hear([Message("plant/3/state", b"on")])
    assert site.called == []


def test_an_event_that_a_full_queue_refuses_is_counted_and_costs_the_others_nothing() -> None:
    site = Site()
    site.subscriptions.replace([manifest("full", "a"), manifest("fine", "a")])
    site.subscriptions.hear([Message("a", b"1")])
    assert [name for name, *_ in site.called] == ["fine"]
    assert site.counters.value("dropped_total", function="full") == 1


def test_a_request_is_answered_to_the_client_that_asked_at_its_response_topic() -> None:
    site = Site()
    asked = Properties(response_topic="me/answers", correlation_data=b"\x07")
    topic = "$tidegate/functions/triage:live/invoke"
    site.subscriptions.serve([Message(topic, b"{}", client_id="panel", properties=asked)])
    [(client, answer)] = site.told
    assert (client, answer.topic, answer.payload) == ("panel", "me/answers", b'"done"')
    assert answer.properties == Properties(correlation_data=b"\x07", user_properties=(("executedVersion", "3"),))


def test_without_a_response_topic_the_answer_goes_to_accepted_or_rejected() -> None:
    topic = "$tidegate/functions/triage/invoke"
    fine, bad = Site(), Site(Result(Ending.ERROR, b'{"errorMessage": "no"}', "3"))
    for site, word in ((fine, "accepted"), (bad, "rejected")):
        site.subscriptions.serve([Message(topic, b"{}", client_id="panel")])
        assert site.told[0][1].topic == f"{topic}/{word}"
    properties = bad.told[0][1].properties
    assert properties is not None
    assert ("functionError", "Unhandled") in properties.user_properties


def test_a_request_for_what_is_not_there_is_answered_with_lambdas_error() -> None:
    site = Site()
    topics = [f"$tidegate/functions/{name}/invoke" for name in ("nobody", "a b", "", "x" * 300)]
    site.subscriptions.serve([Message(topic, b"{}", client_id="panel") for topic in topics])
    kinds = [orjson.loads(message.payload)["errorType"] for _, message in site.told]
    assert kinds == ["ResourceNotFoundException", *["InvalidParameterValueException"] * 3]
    assert all(message.topic.endswith("/rejected") for _, message in site.told)


def test_answers_are_no_requests() -> None:
    site = Site()
    site.subscriptions.serve([Message("$tidegate/functions/triage/invoke/accepted", b"{}", client_id="panel")])
    assert site.told == []
