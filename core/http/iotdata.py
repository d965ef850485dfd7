"""AWS IoT's data plane over HTTP: Publish, and the shadows of things. The paths and names are those of `iot-data`.

Will not keep a message (`publishing` has it kept) nor a shadow (`Shadows` does), and reads no payload.
"""

from base64 import b64decode
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol, TypeVar

import orjson

from core import topics
from core.errors import RequestRefused, StorageError
from core.http.entrance import Caller, Kind
from core.http.messages import JSON, HttpError, Request, Response, json_response
from core.http.routes import Labels, Routes
from core.message import Message, Origin, Properties

T = TypeVar("T")

PAYLOAD_BYTES_MAX = 128 << 10  # AWS IoT's, and what a frame of the uplink holds
USER_PROPERTIES_MAX = 100  # as over MQTT
EXPIRY_MAX = 2**32 - 1  # seconds; MQTT 5's four bytes
RESERVED = frozenset(("$SYS", "$share", "$tidegate", "$aws"))
FORMATS = {"": 0, "UNSPECIFIED_BYTES": 0, "UTF8_DATA": 1}

Publish = Callable[[Message, Origin], Awaitable[None]]
"""Returns when the message is kept as its QoS promises; raises HttpError when it is not."""


class Shadows(Protocol):
    """The shadow service. `name` is None for the classic shadow; documents are JSON, as over MQTT.

    Everything raises RequestRefused and StorageError.
    """

    async def get(self, thing: str, name: str | None) -> bytes:
        """The document."""
        ...

    async def update(self, thing: str, name: str | None, payload: bytes) -> bytes:
        """Change it; what is published to …/update/accepted."""
        ...

    async def delete(self, thing: str, name: str | None) -> bytes:
        """Remove it; what is published to …/delete/accepted."""
        ...

    async def names(self, thing: str) -> list[str]:
        """The named shadows of a thing, sorted."""
        ...


SHADOW_CODES = {
    400: "InvalidRequestException",
    401: "UnauthorizedException",
    404: "ResourceNotFoundException",
    409: "ConflictException",
    413: "RequestEntityTooLargeException",
    415: "UnsupportedDocumentEncodingException",
    429: "ThrottlingException",
    503: "ServiceUnavailableException",
}


class IotData:
    """The handlers. `now_ms` is the clock that messages are stamped with."""

    def __init__(self, publish: Publish, shadows: Shadows | None, now_ms: Callable[[], int]) -> None:
        self._publish = publish
        self._shadows = shadows
        self._now_ms = now_ms

    def add_to(self, routes: Routes) -> None:
        """Take the requests that are for these."""
        routes.add("POST", "/topics/{topic+}", self.publish)
        routes.add("GET", "/things/{thing}/shadow", self.get_shadow)
        routes.add("POST", "/things/{thing}/shadow", self.update_shadow)
        routes.add("DELETE", "/things/{thing}/shadow", self.delete_shadow)
        routes.add("GET", "/api/things/shadow/ListNamedShadowsForThing/{thing}", self.list_shadows)

    # -- messages -----------------------------------------------------------------------------------------------------

    async def publish(self, caller: Caller, request: Request, labels: Labels) -> Response:
        """Publish: `POST /topics/{topic}?qos=0|1&retain=true|false`, with the payload as the body."""
        topic, query = labels["topic"], request.query
        qos, retain = query.get("qos", "0"), query.get("retain", "false")
        if qos not in ("0", "1"):
            raise _bad(f"qos is 0 or 1, not {qos[:20]!r}")
        if retain not in ("true", "false"):
            raise _bad(f"retain is true or false, not {retain[:20]!r}")
        if len(request.body) > PAYLOAD_BYTES_MAX:
            raise HttpError(413, "RequestEntityTooLargeException", f"a payload has at most {PAYLOAD_BYTES_MAX:,} bytes")
        _check_topic(topic)
        if caller.grant is not None and not caller.grant.publish(topic, retain=retain == "true"):
            raise _forbidden(f"not allowed to publish to {topic[:200]}")
        client_id = caller.name if caller.kind is Kind.FUNCTION else ""
        properties = _properties(request, query)
        message = Message(topic, request.body, int(qos), retain == "true", client_id, self._now_ms(), properties)
        await self._publish(message, caller.origin(request))
        return json_response({"message": "OK"})

    # -- shadows ------------------------------------------------------------------------------------------------------

    async def get_shadow(self, caller: Caller, request: Request, labels: Labels) -> Response:
        """GetThingShadow."""
        shadows, thing, name = self._shadow(caller, request, labels, "iot:GetThingShadow")
        return await _answer(shadows.get(thing, name))

    async def update_shadow(self, caller: Caller, request: Request, labels: Labels) -> Response:
        """UpdateThingShadow."""
        shadows, thing, name = self._shadow(caller, request, labels, "iot:UpdateThingShadow")
        return await _answer(shadows.update(thing, name, request.body))

    async def delete_shadow(self, caller: Caller, request: Request, labels: Labels) -> Response:
        """DeleteThingShadow."""
        shadows, thing, name = self._shadow(caller, request, labels, "iot:DeleteThingShadow")
        return await _answer(shadows.delete(thing, name))

    async def list_shadows(self, caller: Caller, request: Request, labels: Labels) -> Response:
        """ListNamedShadowsForThing; all of them, for a thing has few."""
        shadows, thing, _ = self._shadow(caller, request, labels, "iot:ListNamedShadowsForThing")
        names = await _told(shadows.names(thing))
        return json_response({"results": names, "timestamp": self._now_ms() // 1_000})

    def _shadow(
        self, caller: Caller, request: Request, labels: Labels, action: str
    ) -> tuple[Shadows, str, str | None]:
        thing, name = labels["thing"], request.query.get("name") or None
        resource = f"thing/{thing}" if name is None else f"thing/{thing}/{name}"
        if caller.grant is not None and not caller.grant.allows(action, resource):
            raise _forbidden(f"{action} is not allowed on {resource[:200]}")
        if self._shadows is None:
            raise HttpError(501, "MethodNotAllowedException", "there is no shadow service on this side")
        return self._shadows, thing, name


async def _answer(document: Awaitable[bytes]) -> Response:
    return Response(200, await _told(document), {"content-type": JSON})


async def _told(answer: Awaitable[T]) -> T:
    """What the shadow service says, its refusals in words of HTTP."""
    try:
        return await answer
    except RequestRefused as error:
        code = SHADOW_CODES.get(error.code, "InternalFailureException")
        raise HttpError(error.code, code, error.message) from None
    except StorageError as error:
        raise HttpError(503, "ServiceUnavailableException", str(error), {"retry-after": "1"}) from None


def _check_topic(topic: str) -> None:
    try:
        topics.check_name(topic)
    except topics.InvalidTopic as error:
        raise _bad(str(error)) from None
    if topic.partition("/")[0] in RESERVED and not topic.startswith(topics.BASIC_INGEST):
        raise _forbidden(f"{topic[:200]}: the topic is reserved for the server")


def _properties(request: Request, query: Mapping[str, str]) -> Properties | None:
    """What MQTT 5 lets a publisher say, from where the API has it; None when it says nothing."""
    headers = request.headers
    indicator = headers.get("x-amz-mqtt5-payload-format-indicator", "")
    if indicator not in FORMATS:
        raise _bad(f"payloadFormatIndicator is one of {', '.join(filter(None, FORMATS))}")
    expiry = query.get("messageExpiry")
    if expiry is not None and not (expiry.isascii() and expiry.isdecimal() and int(expiry[:11]) <= EXPIRY_MAX):
        raise _bad(f"messageExpiry is 0 to {EXPIRY_MAX} seconds")
    response_topic = query.get("responseTopic")
    if response_topic is not None:
        try:
            topics.check_name(response_topic)
        except topics.InvalidTopic as error:
            raise _bad(f"responseTopic: {error}") from None
    correlation = headers.get("x-amz-mqtt5-correlation-data")
    properties = Properties(
        FORMATS[indicator],
        int(expiry) if expiry is not None else None,
        query.get("contentType"),
        response_topic,
        _base64(correlation, "correlationData") if correlation is not None else None,
        _user_properties(headers.get("x-amz-mqtt5-user-properties")),
    )
    return None if properties == Properties() else properties


def _user_properties(text: str | None) -> tuple[tuple[str, str], ...]:
    """`[{"name": "value"}, …]`, as JSON in base64; or as JSON in a JSON string, which some SDKs make of it."""
    if text is None:
        return ()
    try:
        document: Any = orjson.loads(_base64(text, "userProperties"))
        if isinstance(document, str):
            document = orjson.loads(document)
    except orjson.JSONDecodeError:
        document = None
    if not isinstance(document, list) or len(document) > USER_PROPERTIES_MAX:
        raise _bad(f"userProperties is an array of at most {USER_PROPERTIES_MAX} objects, as JSON in base64")
    pairs = [pair for each in document if isinstance(each, dict) for pair in each.items()]
    if len(pairs) != len(document) or not all(isinstance(value, str) for _, value in pairs):
        raise _bad('each of userProperties is an object with one string: {"name": "value"}')
    return tuple(pairs)


def _base64(text: str, what: str) -> bytes:
    try:
        return b64decode(text, validate=True)
    except ValueError:
        raise _bad(f"{what} is no base64") from None


def _bad(message: str) -> HttpError:
    return HttpError(400, "InvalidRequestException", message)


def _forbidden(message: str) -> HttpError:
    return HttpError(403, "ForbiddenException", message)
