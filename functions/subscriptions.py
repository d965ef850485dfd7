"""What functions hear of MQTT: the topics that a version subscribed to, and requests that wait for an answer.

A subscription gives every message on a topic filter to a function, as Greengrass V1's subscriptions do: the payload is
the event, and the topic is `context.client_context.custom['subject']`. A request is a message to
`$tidegate/functions/NAME/invoke`: its payload is the event, and the result goes to the client that asked, to the
response topic of the request (MQTT 5 section 4.10) or else to `…/invoke/accepted` or `…/invoke/rejected`.

Will not decide who may publish where (policies do); an answer goes to no other client than the one that asked, and only
if it has subscribed to the topic.
"""

from collections.abc import Callable, Iterable

import orjson

from core.errors import TidegateError
from core.message import Message, Properties
from core.telemetry import Counters, get_logger
from core.topics import FUNCTION_REQUESTS as REQUESTS
from core.topics import TopicTree
from functions.errors import FunctionsError
from functions.invocations import Ending, Result
from functions.manifest import Manifest
from functions.names import FunctionName

log = get_logger("functions.subscriptions")

INVOKE = "/invoke"

Call = Callable[[FunctionName, bytes, bytes], object]
Request = Callable[[FunctionName, bytes, bytes, Callable[[Result], None]], None]


class Subscriptions:
    """`call` takes an event for later, `request` has one handled now; `reply(client_id, message)` answers a client."""

    def __init__(
        self, call: Call, request: Request, reply: Callable[[str, Message], None], counters: Counters
    ) -> None:
        self._call = call
        self._request = request
        self._reply = reply
        self._counters = counters
        self._tree: TopicTree[FunctionName] = TopicTree()

    def replace(self, manifests: Iterable[Manifest]) -> None:
        """Hear what these versions subscribed to, and nothing else."""
        tree: TopicTree[FunctionName] = TopicTree()
        for manifest in manifests:
            for pattern in manifest.topics:
                tree.add(pattern, target(manifest))
        self._tree = tree

    def hear(self, messages: list[Message]) -> None:
        """Give messages to whoever subscribed; what cannot be taken is counted and logged."""
        if self._tree:
            for message in messages:
                for function in self._tree.match(message.topic):
                    self._give(function, message)

    def match(self, topic: str) -> tuple[FunctionName, ...]:
        """The functions that subscribed to a topic."""
        return self._tree.match(topic)

    def _give(self, function: FunctionName, message: Message) -> None:
        try:
            self._call(function, message.payload, subject(message.topic))
        except TidegateError as error:
            self._counters.dropped("function cannot be called", function=function.name)
            log.warning("an event was not taken", function=str(function), topic=message.topic, error=error)

    def serve(self, messages: list[Message]) -> None:
        """Have the requests among messages handled."""
        for message in messages:
            if message.topic.startswith(REQUESTS) and message.topic.endswith(INVOKE):
                self._serve(message)

    def _serve(self, message: Message) -> None:
        name = message.topic.removeprefix(REQUESTS).removesuffix(INVOKE)
        try:
            function = FunctionName.parse(name)
            self._request(function, message.payload, subject(message.topic), lambda r: self._answer(message, r))
        except FunctionsError as error:
            document = {"errorType": error.code, "errorMessage": str(error)}
            self._answer(message, Result(Ending.REFUSED, orjson.dumps(document)))

    def _answer(self, request: Message, result: Result) -> None:
        asked = request.properties
        word = "rejected" if result.function_error else "accepted"
        topic = asked.response_topic if asked is not None and asked.response_topic else f"{request.topic}/{word}"
        pairs = (("functionError", result.function_error),) if result.function_error else ()
        properties = Properties(
            correlation_data=asked.correlation_data if asked is not None else None,
            user_properties=(*pairs, ("executedVersion", result.version)) if result.version else pairs,
        )
        self._reply(request.client_id, Message(topic, result.payload, properties=properties))


def target(manifest: Manifest) -> FunctionName:
    """What events for a current version are addressed to, so that they go to the next one after a deploy."""
    return FunctionName(manifest.name, manifest.alias) if manifest.alias else FunctionName(manifest.name)


def subject(topic: str) -> bytes:
    """The client context that tells a handler the topic, as Greengrass V1 does."""
    return orjson.dumps({"custom": {"subject": topic}})
