"""Topic names, topic filters, and the tree that finds which filters match a name.

The rules are those of MQTT 5.0 section 4.7 (the same in 3.1.1). The tree answers from a bounded cache, so a topic that
was seen before costs one dictionary look-up. It knows nothing about who subscribed: values are the caller's.
"""

from collections.abc import Iterator
from typing import Generic, TypeVar

from core.errors import TidegateError

V = TypeVar("V")

TOPIC_BYTES_MAX = 65_535  # the length field of an MQTT string has two bytes
LEVELS_MAX = 128  # far above any real naming scheme (AWS IoT allows 8), far below what makes matching slow
CACHED_TOPICS_MAX = 20_000  # about 4 MB; a site has thousands of topics, a topic flood must not grow memory
CACHED_TOPIC_CHARS_MAX = 256  # nor must a flood of very long ones; those are looked up each time
CACHED_VALUES_MAX = 1_000_000  # nor one of filters that overlap: values in all answers together, about 8 MB
BASIC_INGEST = "$aws/rules/"  # a rule's name and a topic follow: only that rule hears the message, no subscriber does
FUNCTION_REQUESTS = "$tidegate/functions/"  # NAME/invoke below it: the result goes to the client that asked
LEVEL_BYTES = 340  # of memory for each level that a tree has for one filter or name alone: an object and a dictionary


class InvalidTopic(TidegateError, ValueError):
    """A topic name or filter that MQTT forbids; the message says which rule it breaks."""


def check_name(topic: str) -> None:
    """Raise InvalidTopic unless `topic` may be published to (MQTT 5.0 sections 3.3.2.1 and 4.7.3)."""
    if "+" in topic or "#" in topic:
        raise InvalidTopic(f"topic {topic[:80]!r} holds a wildcard")
    _check_text(topic)


def check_filter(pattern: str) -> None:
    """Raise InvalidTopic unless `pattern` is a topic filter (MQTT 5.0 section 4.7.1)."""
    _check_text(pattern)
    levels = pattern.split("/")
    for position, level in enumerate(levels):
        if "#" in level and (level != "#" or position != len(levels) - 1):
            raise InvalidTopic(f"filter {pattern[:80]!r}: '#' must stand alone and last")
        if "+" in level and level != "+":
            raise InvalidTopic(f"filter {pattern[:80]!r}: '+' must fill its level")


def _check_text(text: str) -> None:
    if not text:
        raise InvalidTopic("a topic must not be empty")
    if "\0" in text:
        raise InvalidTopic(f"topic {text[:80]!r} holds a NUL character")
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise InvalidTopic(f"topic {text[:80]!r} holds half of a surrogate pair, which UTF-8 cannot say") from None
    if size > TOPIC_BYTES_MAX:
        raise InvalidTopic(f"topic is longer than {TOPIC_BYTES_MAX:,} bytes")
    if text.count("/") >= LEVELS_MAX:
        raise InvalidTopic(f"topic has more than {LEVELS_MAX} levels")


def footprint(text: str) -> int:
    """Bytes of memory, at most, that a topic name or filter costs in a tree by levels, for bounds."""
    return len(text) + (text.count("/") + 1) * LEVEL_BYTES


def beyond_basic_ingest(topic: str) -> str:
    """The topic as rules see it: what follows `$aws/rules/<rule>/`, and a topic without that prefix as it is."""
    if not topic.startswith(BASIC_INGEST):
        return topic
    _, _, rest = topic[len(BASIC_INGEST) :].partition("/")
    return rest


def matches(pattern: str, topic: str) -> bool:
    """Whether one filter matches one name; both are taken as valid."""
    tree: TopicTree[None] = TopicTree()
    tree.add(pattern, None)
    return bool(tree.match(topic))


class _Node(Generic[V]):
    __slots__ = ("children", "values")

    def __init__(self) -> None:
        self.children: dict[str, _Node[V]] = {}
        self.values: list[V] = []


class TopicTree(Generic[V]):
    """Filters with values; `match(topic)` gives the values of every filter that matches, in no promised order.

    `parent_of_hash`: whether `a/#` matches `a` too, as MQTT says and AWS IoT rules do not.
    """

    def __init__(self, *, parent_of_hash: bool = True) -> None:
        self._root: _Node[V] = _Node()
        self._parent_of_hash = parent_of_hash
        self._cache: dict[str, tuple[V, ...]] = {}
        self._cached = 0  # values in it
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def add(self, pattern: str, value: V) -> None:
        """Add `value` under a valid filter; the same value may be added under several."""
        node = self._root
        for level in pattern.split("/"):
            node = node.children.setdefault(level, _Node())
        node.values.append(value)
        self._size += 1
        self._forget()

    def remove(self, pattern: str, value: V) -> None:
        """Remove one occurrence of `value` under `pattern`; raise KeyError when it is not there."""
        path = [self._root]
        levels = pattern.split("/")
        for level in levels:
            path.append(path[-1].children[level])
        try:
            path[-1].values.remove(value)
        except ValueError:
            raise KeyError(pattern) from None
        for level, parent, child in zip(reversed(levels), reversed(path[:-1]), reversed(path[1:]), strict=True):
            if child.values or child.children:
                break
            del parent.children[level]
        self._size -= 1
        self._forget()

    def match(self, topic: str) -> tuple[V, ...]:
        """The values of all filters that match `topic`, which is taken as a valid name."""
        found = self._cache.get(topic)
        if found is None:
            found = tuple(self._find(topic))
            if len(topic) <= CACHED_TOPIC_CHARS_MAX:
                if len(self._cache) >= CACHED_TOPICS_MAX or self._cached >= CACHED_VALUES_MAX:
                    self._forget()
                self._cache[topic] = found
                self._cached += len(found)
        return found

    def _forget(self) -> None:
        self._cache.clear()
        self._cached = 0

    def _find(self, topic: str) -> Iterator[V]:
        # Nodes are visited level by level, so a hostile tree of '+' costs its width, never a deep recursion.
        levels = topic.split("/")
        hidden = topic.startswith("$")  # wildcards in the first level do not see $-topics (MQTT 5.0 section 4.7.2)
        nodes = [self._root]
        for depth, level in enumerate(levels):
            wild = not (hidden and depth == 0)
            following: list[_Node[V]] = []
            for node in nodes:
                if wild and (rest := node.children.get("#")):
                    yield from rest.values
                if child := node.children.get(level):
                    following.append(child)
                if wild and (child := node.children.get("+")):
                    following.append(child)
            nodes = following
        for node in nodes:
            yield from node.values
            if self._parent_of_hash and (rest := node.children.get("#")):
                yield from rest.values
