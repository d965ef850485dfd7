"""One message as the rules see it, and what they may know and ask beside it.

The payload is parsed at most once, however many rules look at it. One that is not JSON stays bytes: it passes through
`SELECT *`, and every path into it is Undefined. What an event holds is shared by all rules of the message and must only
be read.

Under Basic Ingest (`$aws/rules/<rule>/<topic…>`) the rules see `<topic…>`; the engine has chosen the rule by then.

Randomness and answers from elsewhere come from the side that runs the rules, as `Chance` and `Calls`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, Self

from core.errors import TidegateError
from core.message import Message, Origin
from core.topics import beyond_basic_ingest
from rules.errors import CallFailed, EvaluationError
from rules.sql.payloads import read

_UNREAD: Any = object()
_NO_MEMBERS: dict[str, Any] = {}

NO_ACCOUNT = "000000000000"  # where the configuration names none

ANSWERS_MAX = 1_000  # kept per message: one for each of the rules that AWS allows; a nested SELECT may ask per element


@dataclass(frozen=True, slots=True)
class Context:
    """Where a message came from. One object serves all messages of a connection.

    `principal` is the SHA-256 of the client's certificate (64 hexadecimal digits) or the name of its user; like
    `source_ip` it is empty when nobody knows it, which is Undefined to a rule. `protocol` is "mqtt", "http", or empty
    for a message that Tidegate made itself. `account_id` owns the rules.
    """

    principal: str = ""
    source_ip: str = ""
    protocol: str = "mqtt"
    account_id: str = NO_ACCOUNT

    @classmethod
    def of(cls, origin: Origin, account_id: str) -> Self:
        """The context of messages from `origin`, for the rules of an account."""
        return cls(origin.principal, origin.source_ip, origin.protocol, account_id)


class Chance(Protocol):
    """Where randomness comes from."""

    def random(self) -> float:
        """A number from 0.0 to 1.0."""
        ...

    def uuid(self) -> str:
        """A random UUID (RFC 9562, version 4) in its 36 characters."""
        ...


class Calls(Protocol):
    """What the functions that call out are answered; `names` are those functions that this side can run.

    The answers are values of IoT SQL, UNDEFINED among them. Every method raises TidegateError, which fails the rule for
    this message unless the statement wraps the call in get_or_default().
    """

    names: frozenset[str]

    def get_thing_shadow(self, thing: str, shadow: str | None) -> Any:
        """The document of a thing's shadow; `shadow` is the name of one, None for the classic one."""
        ...

    def get_dynamodb(self, table: str, key: dict[str, Any]) -> Any:
        """The item with this key, UNDEFINED when there is none."""
        ...

    def aws_lambda(self, arn: str, payload: Any) -> Any:
        """What the function returns for `payload`."""
        ...

    def get_registry_data(self, api: str, thing: str) -> Any:
        """What `api`, DescribeThing or ListThingGroupsForThing, says of a thing."""
        ...

    def get_secret(self, secret_id: str) -> dict[str, str]:
        """The secret: one of {"SecretString": text} and {"SecretBinary": base64}."""
        ...


class _NoChance:
    """For events that are given no randomness."""

    def random(self) -> float:
        raise EvaluationError("nothing is random here")

    def uuid(self) -> str:
        raise EvaluationError("nothing is random here")


def _timeless() -> float:
    return 0.0


_ANYONE = Context()
_NO_CHANCE = _NoChance()


class Event:
    """A message and the time at which the rules hear it: `now_ms` is milliseconds since the Unix epoch.

    Without `trace_id` it has one made by `chance` when a rule asks. `watch` tells the seconds that the processor has
    worked for us, so that what takes too long can be given up; without it nothing is.
    """

    __slots__ = (
        "_answers", "_levels", "_members", "_set", "_topic", "_trace_id", "_value", "calls", "chance", "context",
        "message", "now_ms", "watch",
    )  # fmt: skip

    def __init__(
        self,
        message: Message,
        now_ms: int,
        *,
        context: Context = _ANYONE,
        calls: Calls | None = None,
        chance: Chance = _NO_CHANCE,
        trace_id: str | None = None,
        watch: Callable[[], float] = _timeless,
    ) -> None:
        self.message = message
        self.now_ms = now_ms
        self.context = context
        self.calls = calls
        self.chance = chance
        self.watch = watch
        self._trace_id = trace_id
        self._value = _UNREAD
        self._members = _NO_MEMBERS
        self._topic: str | None = None
        self._levels: list[str] | None = None
        self._answers: dict[Any, Any] | None = None
        self._set: dict[int, tuple[Any, ...]] | None = None

    @property
    def set(self) -> dict[int, tuple[Any, ...]]:
        """The variables of the statements that were evaluated, for the templates that belong to them."""
        if self._set is None:
            self._set = {}
        return self._set

    @property
    def value(self) -> Any:
        """What the payload says in JSON, or its bytes when it is not JSON (RFC 8259)."""
        if self._value is _UNREAD:
            self._read()
        return self._value

    @property
    def members(self) -> dict[str, Any]:
        """The members of a payload that is a JSON object; none for every other payload."""
        if self._value is _UNREAD:
            self._read()
        return self._members

    @property
    def topic(self) -> str:
        """The topic, without the prefix of Basic Ingest."""
        if self._topic is None:
            self._topic = beyond_basic_ingest(self.message.topic)
        return self._topic

    @property
    def levels(self) -> list[str]:
        """The levels of `topic`, the first one at index 0."""
        if self._levels is None:
            self._levels = self.topic.split("/")
        return self._levels

    @property
    def trace_id(self) -> str:
        """One random UUID for everything that becomes of the message."""
        if self._trace_id is None:
            self._trace_id = self.chance.uuid()
        return self._trace_id

    def answer(self, request: Any, ask: Callable[[Calls], Any]) -> Any:
        """What `ask` is answered, or was for the same `request` (hashable) of this message. Raises CallFailed."""
        if self.calls is None:
            raise CallFailed("nobody answers calls here")
        if self._answers is None:
            self._answers = {}
        if request not in self._answers:
            if len(self._answers) >= ANSWERS_MAX:
                raise CallFailed(f"more than {ANSWERS_MAX:,} different calls for one message")
            try:
                self._answers[request] = ask(self.calls)
            except TidegateError as error:
                self._answers[request] = CallFailed(str(error))  # it is slow, and no better the second time
        answer = self._answers[request]
        if isinstance(answer, CallFailed):
            raise CallFailed(str(answer))
        return answer

    def _read(self) -> None:
        try:
            value = self._value = read(self.message.payload)
        except ValueError:
            self._value = self.message.payload
        else:
            if value.__class__ is dict:
                self._members = value
