"""Shared subscriptions: each message goes to one member of the group (MQTT 5 section 4.8.2).

Members take turns. One that is away, or has not taken what it was sent, is passed over while another is ready.
"""

from collections.abc import Container

from core.mqtt.session import Session, Subscription

PREFIX = "$share/"


def split(pattern: str) -> tuple[str, str]:
    """The name of the group and the filter of "$share/name/filter"; an empty name for an ordinary subscription."""
    if not pattern.startswith(PREFIX):
        return "", pattern
    name, _, rest = pattern.removeprefix(PREFIX).partition("/")
    return name, rest


class Group:
    """The members of one shared subscription, `pattern` as they wrote it."""

    __slots__ = ("_next", "members", "pattern")

    def __init__(self, pattern: str) -> None:
        self.pattern = pattern
        self.members: list[Subscription] = []
        self._next = 0

    def pick(self, topic: str, besides: Container[Session]) -> Subscription | None:
        """Whose turn it is; None when nobody may be sent what is published to `topic`."""
        second: Subscription | None = None
        count = len(self.members)
        for step in range(count):
            index = (self._next + step) % count
            member = self.members[index]
            session = member.session
            if session in besides or not _may_receive(session, topic):
                continue
            if session.ready:
                self._next = index + 1
                return member
            if second is None or (second.session.outlet is None and session.outlet is not None):
                second = member
        if second is not None:
            self._next = self.members.index(second) + 1
        return second

    def has_another(self, session: Session, topic: str) -> bool:
        """Whether another member may be sent what is published to `topic`."""
        return any(m.session is not session and _may_receive(m.session, topic) for m in self.members)

    def others_present(self, session: Session) -> bool:
        """Whether another member's client is connected."""
        return any(member.session is not session and member.session.outlet is not None for member in self.members)


def _may_receive(session: Session, topic: str) -> bool:
    return session.grant is None or session.grant.receive(topic)
