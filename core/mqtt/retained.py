"""The retained messages: the last one of each topic, for whoever subscribes later.

A tree by levels, so that a filter visits only what it can match. Bounded; the one that does not fit is refused, never
another one thrown out for it. Will not keep them on disk: `journal` does.
"""

from collections.abc import Iterator

from core import topics
from core.message import Message
from core.mqtt.parcels import expires_at

RETAINED_MAX = 20_000  # topics with a retained message; a site has a few for each of its devices
RETAINED_MAX_BYTES = 64 << 20  # of these messages and the tree, a sixteenth of the memory of the smallest box


class _Node:
    __slots__ = ("children", "message")

    def __init__(self) -> None:
        self.children: dict[str, _Node] = {}
        self.message: Message | None = None


class Retained:
    """The retained messages of one broker; `now` is ms since the epoch."""

    def __init__(self) -> None:
        self._root = _Node()
        self._topics: dict[str, Message] = {}
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._topics)

    @property
    def published(self) -> int:
        """How many there are without those in which the broker speaks about itself."""
        return sum(not topic.startswith("$SYS/") for topic in self._topics)

    def get(self, topic: str) -> Message | None:
        """The message of one topic."""
        return self._topics.get(topic)

    def has_room(self, message: Message) -> bool:
        """Whether the message may be retained; one that clears its topic always may."""
        former = self._topics.get(message.topic)
        others = len(self._topics) - (former is not None)
        others_bytes = self._bytes - (_cost(former) if former is not None else 0)
        return not message.payload or (others < RETAINED_MAX and others_bytes + _cost(message) <= RETAINED_MAX_BYTES)

    def put(self, message: Message) -> bool:
        """Keep, replace or (empty payload) clear the message of a topic; False when there is no room."""
        if not self.has_room(message):
            return False
        if message.payload:
            former = self._topics.get(message.topic)
            self._bytes += _cost(message) - (_cost(former) if former is not None else 0)
            self._topics[message.topic] = message
            node = self._root
            for level in message.topic.split("/"):
                node = node.children.get(level) or node.children.setdefault(level, _Node())
            node.message = message
        else:
            self._clear(message.topic)
        return True

    def find(self, pattern: str, now: int) -> list[Message]:
        """The messages that a filter matches (MQTT 5.0 section 4.7), without those that have expired."""
        found = self._find(pattern.split("/"))
        return [m for m in found if (limit := expires_at(m)) is None or limit > now]

    def expire(self, now: int) -> list[str]:
        """Drop what has expired; returns the topics."""
        gone = [topic for topic, m in self._topics.items() if (limit := expires_at(m)) is not None and limit <= now]
        for topic in gone:
            self._clear(topic)
        return gone

    def _clear(self, topic: str) -> None:
        former = self._topics.pop(topic, None)
        if former is None:
            return
        self._bytes -= _cost(former)
        levels = topic.split("/")
        path = [self._root]
        for level in levels:
            path.append(path[-1].children[level])
        path[-1].message = None
        for level, parent, child in zip(reversed(levels), reversed(path[:-1]), reversed(path[1:]), strict=True):
            if child.message is not None or child.children:
                break
            del parent.children[level]

    def _find(self, levels: list[str]) -> Iterator[Message]:
        nodes = [self._root]
        for depth, level in enumerate(levels):
            if level == "#":
                yield from _below(nodes, hide=depth == 0)
                return
            nodes = list(_step(nodes, level, hide=depth == 0))
        for node in nodes:
            if node.message is not None:
                yield node.message


def _cost(message: Message) -> int:
    """Bytes of memory: of the message, and of its topic in the tree as if no other had a level in common with it."""
    return message.size + topics.footprint(message.topic)


def _step(nodes: list[_Node], level: str, *, hide: bool) -> Iterator[_Node]:
    for node in nodes:
        if level == "+":
            yield from (child for name, child in node.children.items() if not (hide and name.startswith("$")))
        elif level in node.children:
            yield node.children[level]


def _below(nodes: list[_Node], *, hide: bool) -> Iterator[Message]:
    """Everything at and under `nodes`; topics that begin with $ are hidden from wildcards in the first level."""
    waiting = list(nodes)
    while waiting:
        node = waiting.pop()
        if node.message is not None:
            yield node.message
        waiting += [child for name, child in node.children.items() if not (hide and name.startswith("$"))]
        hide = False
