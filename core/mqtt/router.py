"""Who gets which message: the subscriptions of all sessions in one tree, and the retained messages.

Pure bookkeeping. A client whose filters overlap gets one copy with the highest QoS. Retained messages are bounded; the
one that does not fit is refused by name, never silently.
"""

from core.message import Message
from core.mqtt.session import Session, SlowConsumer, Subscription
from core.topics import TopicTree

RETAINED_MAX = 20_000  # topics with a retained message; a site has a few for each of its devices
RETAINED_MAX_BYTES = 64 << 20  # their payloads in memory, a sixteenth of the smallest box


class Router:
    """Subscriptions and retained messages of one broker."""

    def __init__(self) -> None:
        self._tree: TopicTree[Subscription] = TopicTree()
        self._retained: dict[str, Message] = {}
        self._retained_bytes = 0

    @property
    def subscriptions(self) -> int:
        """How many subscriptions there are."""
        return len(self._tree)

    @property
    def retained(self) -> int:
        """How many topics have a retained message."""
        return len(self._retained)

    def subscribe(self, subscription: Subscription) -> bool:
        """Add a subscription or replace the one with the same filter; True when it is new."""
        session, pattern = subscription.session, subscription.pattern
        former = session.subscriptions.get(pattern)
        if former is not None:
            self._tree.remove(pattern, former)
        session.subscriptions[pattern] = subscription
        self._tree.add(pattern, subscription)
        return former is None

    def unsubscribe(self, session: Session, pattern: str) -> bool:
        """Remove a subscription; False when there was none."""
        subscription = session.subscriptions.pop(pattern, None)
        if subscription is None:
            return False
        self._tree.remove(pattern, subscription)
        return True

    def forget(self, session: Session) -> None:
        """Remove everything that a session subscribed to."""
        for pattern in list(session.subscriptions):
            self.unsubscribe(session, pattern)

    def retain(self, message: Message) -> bool:
        """Keep, replace or (empty payload) clear the retained message of a topic; False when there is no room."""
        former = self._retained.get(message.topic)
        others = len(self._retained) - (former is not None)
        others_bytes = self._retained_bytes - (len(former.payload) if former is not None else 0)
        size = len(message.payload)
        if size and (others >= RETAINED_MAX or others_bytes + size > RETAINED_MAX_BYTES):
            return False
        self._retained.pop(message.topic, None)
        if size:
            self._retained[message.topic] = message
        self._retained_bytes = others_bytes + size
        return True

    def retained_for(self, pattern: str) -> list[Message]:
        """The retained messages that a filter matches."""
        if "+" not in pattern and "#" not in pattern:
            message = self._retained.get(pattern)
            return [] if message is None else [message]
        tree: TopicTree[None] = TopicTree()
        tree.add(pattern, None)
        return [message for topic, message in self._retained.items() if tree.match(topic)]

    def route(self, messages: list[Message]) -> list[Session]:
        """Deliver messages to everyone subscribed; return the sessions that could not keep up."""
        slow: list[Session] = []
        match = self._tree.match
        for message in messages:
            found = match(message.topic)
            if found:
                self._deliver(message, found, slow)
        return slow

    def _deliver(self, message: Message, found: tuple[Subscription, ...], slow: list[Session]) -> None:
        best: dict[Session, Subscription] = {}
        for subscription in found:
            if subscription.no_local and subscription.session.client_id == message.client_id:
                continue
            chosen = best.get(subscription.session)
            if chosen is None or subscription.qos > chosen.qos:
                best[subscription.session] = subscription
        for session, subscription in best.items():
            if session in slow:
                continue
            try:
                session.deliver(
                    message,
                    min(message.qos, subscription.qos),
                    message.retain and subscription.retain_as_published,
                )
            except SlowConsumer:
                slow.append(session)
