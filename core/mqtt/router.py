"""Who gets which message: the subscriptions of all sessions in one tree.

Pure bookkeeping. For each topic a plan is made once and remembered until a subscription or a permission changes: who
gets one copy, with the highest QoS and every identifier of its filters that overlap, and which shared subscriptions
get one. Plans are bounded like the tree's own cache.
"""

from dataclasses import dataclass

from core.message import Message
from core.mqtt.groups import Group, split
from core.mqtt.parcels import Parcel
from core.mqtt.session import Session, SlowConsumer, Subscription
from core.topics import BASIC_INGEST, CACHED_TOPIC_CHARS_MAX, TopicTree

PLANS_MAX = 20_000  # topics; a site has thousands, a flood of names must not grow memory
PLANNED_MAX = 1_000_000  # receivers in all plans together: about 8 MB

Kind = tuple[int, bool, tuple[int, ...]]  # QoS, retain as published, identifiers


@dataclass(frozen=True, slots=True)
class Plan:
    """What becomes of a message of one topic; `personal` when it depends on who published it (No Local)."""

    bundles: tuple[tuple[Kind, tuple[Session, ...]], ...]
    groups: tuple[Group, ...]
    personal: bool
    receivers: int


class Router:
    """The subscriptions of one broker."""

    def __init__(self) -> None:
        self._tree: TopicTree[Subscription | Group] = TopicTree()
        self._groups: dict[str, Group] = {}
        self._plans: dict[str, Plan] = {}
        self._planned = 0
        self._size = 0
        self.delivered = 0  # messages times receivers

    @property
    def subscriptions(self) -> int:
        """How many subscriptions there are."""
        return self._size

    def subscribe(self, subscription: Subscription) -> bool:
        """Add a subscription or replace the one with the same filter; True when it is new."""
        session, pattern = subscription.session, subscription.pattern
        new = not self._take_out(session, pattern)
        session.subscriptions[pattern] = subscription
        self._size += 1
        group_name, topic_filter = split(pattern)
        if not group_name:
            self._tree.add(topic_filter, subscription)
        elif (group := self._groups.get(pattern)) is not None:
            group.members.append(subscription)
        else:
            group = self._groups[pattern] = Group(pattern)
            group.members.append(subscription)
            self._tree.add(topic_filter, group)
        self.forget_plans()
        return new

    def unsubscribe(self, session: Session, pattern: str) -> bool:
        """Remove a subscription; False when there was none."""
        if not self._take_out(session, pattern):
            return False
        del session.subscriptions[pattern]
        self.forget_plans()
        return True

    def forget(self, session: Session) -> None:
        """Remove everything that a session subscribed to."""
        for pattern in list(session.subscriptions):
            self.unsubscribe(session, pattern)

    def kind(self, session: Session, topic: str) -> Kind | None:
        """How one session gets what is published to a topic, None when it has not subscribed or may not receive it."""
        if session.grant is not None and not session.grant.receive(topic):
            return None
        found = [s for s in self._tree.match(topic) if isinstance(s, Subscription) and s.session is session]
        return _kind(found) if found else None

    def forget_plans(self) -> None:
        """Permissions have changed, or who is there."""
        self._plans.clear()
        self._planned = 0

    def _take_out(self, session: Session, pattern: str) -> bool:
        subscription = session.subscriptions.get(pattern)
        if subscription is None:
            return False
        self._size -= 1
        group_name, topic_filter = split(pattern)
        if not group_name:
            self._tree.remove(topic_filter, subscription)
            return True
        group = self._groups[pattern]
        group.members.remove(subscription)
        if not group.members:
            del self._groups[pattern]
            self._tree.remove(topic_filter, group)
        return True

    # -- messages -----------------------------------------------------------------------------------------------------

    def route(self, messages: list[Message]) -> list[Session]:
        """Deliver messages to everyone subscribed; return the sessions that could not keep up."""
        slow: list[Session] = []
        plans = self._plans
        for message in messages:
            plan = plans.get(message.topic) or self._plan(message.topic)
            if plan.personal:
                plan = self._resolve(message.topic, message.client_id)
            for (qos, as_published, ids), sessions in plan.bundles:
                retain = message.retain and as_published
                parcel = Parcel(message, min(qos, message.qos), retain=retain, ids=ids)
                self.delivered += len(sessions)
                for session in sessions:
                    try:
                        session.deliver(parcel)
                    except SlowConsumer:
                        slow.append(session)
            for group in plan.groups:
                slow += self._deliver_to_one(group, message, set())
        return slow

    def hand_over(self, session: Session, *, ended: bool) -> list[Session]:
        """Give what a member of shared subscriptions leaves behind to other members, if there are any.

        While its session goes on, what nobody else is there for stays with it. Returns those that could not keep up.
        """
        slow: list[Session] = []
        patterns = [pattern for pattern in session.subscriptions if pattern in self._groups]
        if not patterns or not (ended or all(self._groups[p].others_present(session) for p in patterns)):
            return slow

        def has_taker(parcel: Parcel) -> bool:
            group = self._groups.get(parcel.group)
            return group is not None and group.has_another(session, parcel.message.topic)

        for parcel in session.give_up_shared(has_taker):
            slow += self._deliver_to_one(self._groups[parcel.group], parcel.message, {session})
        return slow

    def _deliver_to_one(self, group: Group, message: Message, besides: set[Session]) -> set[Session]:
        """Deliver to the first member that takes it, except `besides`; returns those that could not keep up."""
        slow: set[Session] = set()
        while (member := group.pick(message.topic, besides | slow)) is not None:
            ids = (member.identifier,) if member.identifier else ()
            retain = message.retain and member.retain_as_published
            parcel = Parcel(message, min(member.qos, message.qos), retain=retain, ids=ids, group=group.pattern)
            try:
                member.session.deliver(parcel)
            except SlowConsumer:
                slow.add(member.session)
            else:
                break
        return slow

    def _plan(self, topic: str) -> Plan:
        plan = self._resolve(topic, None)
        if len(topic) <= CACHED_TOPIC_CHARS_MAX:
            if len(self._plans) >= PLANS_MAX or self._planned >= PLANNED_MAX:
                self.forget_plans()
            self._plans[topic] = plan
            self._planned += plan.receivers
        return plan

    def _resolve(self, topic: str, publisher: str | None) -> Plan:
        """Who gets what `publisher` sends to a topic; None for anyone."""
        chosen: dict[Session, list[Subscription]] = {}
        groups: list[Group] = []
        personal = False
        for found in () if topic.startswith(BASIC_INGEST) else self._tree.match(topic):  # a rule alone hears that
            if isinstance(found, Group):
                groups.append(found)
                continue
            session = found.session
            if found.no_local:
                personal = True
                if session.client_id == publisher:
                    continue
            chosen.setdefault(session, []).append(found)
        bundles: dict[Kind, list[Session]] = {}
        for session, subscriptions in chosen.items():
            if session.grant is None or session.grant.receive(topic):
                bundles.setdefault(_kind(subscriptions), []).append(session)
        listed = tuple((kind, tuple(sessions)) for kind, sessions in bundles.items())
        return Plan(listed, tuple(groups), personal, len(chosen) + len(groups))


def _kind(subscriptions: list[Subscription]) -> Kind:
    """How one session gets its one copy of what several of its filters match (MQTT 5 section 3.3.4)."""
    return (
        max(subscription.qos for subscription in subscriptions),
        any(subscription.retain_as_published for subscription in subscriptions),
        tuple(subscription.identifier for subscription in subscriptions if subscription.identifier),
    )
