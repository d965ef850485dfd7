"""SUBSCRIBE and UNSUBSCRIBE of one connected client: what is granted, and the retained messages that follow."""

from typing import Protocol

from mqtt5 import (
    DisconnectReasonCode,
    Packet,
    RetainHandling,
    SubAckPacket,
    SubAckReasonCode,
    SubscribePacket,
    TopicFilter,
    UnsubAckPacket,
    UnsubAckReasonCode,
    UnsubscribePacket,
)

from core import topics
from core.commits import Barrier
from core.message import Message
from core.mqtt.access import Grant
from core.mqtt.groups import PREFIX, split
from core.mqtt.journal import KEPT, Journal
from core.mqtt.limits import Limits
from core.mqtt.parcels import Parcel
from core.mqtt.retained import RETAINED_MAX, Retained
from core.mqtt.router import Router
from core.mqtt.session import Session, SlowConsumer, Subscription

FILTERS_BYTES_MAX = 4 << 20  # of memory for the filters of one client: a thousand of ten levels

GRANTED = (
    SubAckReasonCode.GRANTED_QOS_AT_MOST_ONCE,
    SubAckReasonCode.GRANTED_QOS_AT_LEAST_ONCE,
    SubAckReasonCode.GRANTED_QOS_EXACTLY_ONCE,
)


class Desk(Protocol):
    """What subscriptions need of the broker; `at` is now in ms since the epoch."""

    at: int
    journal: Journal
    limits: Limits
    retained: Retained
    router: Router

    def subscriptions_changed(self, session: Session, patterns: list[str], *, subscribed: bool) -> None:
        """A client has subscribed, or unsubscribed."""
        ...


class Client(Protocol):
    """The connection that the packets come from."""

    @property
    def version(self) -> int:
        """5, or 4 for MQTT 3.1.1."""
        ...

    def send(self, packet: Packet) -> bool:
        """Queue a packet for the client."""
        ...

    def refuse(self, reason: int, text: str) -> None:
        """Close the connection."""
        ...

    def disk_refuses(self) -> None:
        """Close the connection, because what the client must be told cannot be stored."""
        ...


class Subscribing:
    """Handles the two packets of one connection."""

    def __init__(self, desk: Desk, client: Client, session: Session, grant: Grant) -> None:
        self._desk = desk
        self._client = client
        self._session = session
        self._grant = grant
        self._filters_bytes = sum(map(topics.footprint, session.subscriptions))

    def subscribe(self, packet: SubscribePacket) -> None:
        """Answer with SUBACK when what was granted is on disk, then send the retained messages."""
        if not packet.topic_filters:
            self._client.refuse(int(DisconnectReasonCode.PROTOCOL_ERROR), "SUBSCRIBE without a topic filter")
            return
        if any(wanted.no_local and wanted.pattern.startswith(PREFIX) for wanted in packet.topic_filters):
            text = "no local on a shared subscription"  # MQTT 5 section 3.8.3.1
            self._client.refuse(int(DisconnectReasonCode.PROTOCOL_ERROR), text)
            return
        codes: list[SubAckReasonCode] = []
        granted: list[str] = []
        retained: list[Parcel] = []
        barrier = KEPT
        last = {wanted.pattern: place for place, wanted in enumerate(packet.topic_filters)}
        for place, wanted in enumerate(packet.topic_filters):
            refusal = self._refusal(wanted.pattern)
            codes.append(refusal or GRANTED[int(wanted.max_qos)])
            if refusal is None:
                granted.append(wanted.pattern)
                is_last = last[wanted.pattern] == place  # a filter that stands there many times is answered once
                barrier = self._add(wanted, packet.subscription_id or 0, retained if is_last else None)
            if len(retained) > RETAINED_MAX:
                self._client.refuse(int(DisconnectReasonCode.QUOTA_EXCEEDED), "too many retained messages asked for")
                return
        if granted:
            self._desk.subscriptions_changed(self._session, granted, subscribed=True)
        answer = SubAckPacket(packet.packet_id, codes)
        if barrier is KEPT:
            self._client.send(answer)
            self._deliver(retained)
        else:
            self._deliver(retained)  # first, so that a client that was told of its subscription is owed them on disk
            self._answer(barrier, answer)

    def unsubscribe(self, packet: UnsubscribePacket) -> None:
        """Answer with UNSUBACK when the end of the subscriptions is on disk."""
        if not packet.patterns:
            self._client.refuse(int(DisconnectReasonCode.PROTOCOL_ERROR), "UNSUBSCRIBE without a topic filter")
            return
        codes: list[UnsubAckReasonCode] = []
        ended: list[str] = []
        barrier = KEPT
        for pattern in packet.patterns:
            barrier = self._desk.journal.unsubscribed(self._session, pattern)  # the disk may still have it
            if self._desk.router.unsubscribe(self._session, pattern):
                self._filters_bytes -= topics.footprint(pattern)
                ended.append(pattern)
                codes.append(UnsubAckReasonCode.SUCCESS)
            else:
                codes.append(UnsubAckReasonCode.NO_SUBSCRIPTION_EXISTED)
        if ended:
            self._desk.subscriptions_changed(self._session, ended, subscribed=False)
        self._answer(barrier, UnsubAckPacket(packet.packet_id, codes))

    def _deliver(self, retained: list[Parcel]) -> None:
        """Owe the client the retained messages: all of them, unless it still has others in line."""
        bounded = self._session.in_line > 0
        try:
            for parcel in retained:
                self._session.deliver(parcel, bounded=bounded)
        except SlowConsumer:
            self._client.refuse(int(DisconnectReasonCode.QUOTA_EXCEEDED), "too many messages in line")

    def _answer(self, barrier: Barrier, packet: Packet) -> None:
        def answer(kept: bool) -> None:
            if kept:
                self._client.send(packet)
            else:
                self._client.disk_refuses()

        barrier.then(answer)

    def _refusal(self, pattern: str) -> SubAckReasonCode | None:
        """Why the client may not subscribe with a filter; None when it may."""
        group, topic_filter = split(pattern)
        if pattern.startswith(PREFIX) and (not group or not topic_filter or set(group) & {"+", "#"}):
            return SubAckReasonCode.TOPIC_FILTER_INVALID  # MQTT 5 section 4.8.2
        try:
            topics.check_filter(pattern)
        except topics.InvalidTopic:
            return SubAckReasonCode.TOPIC_FILTER_INVALID
        if topic_filter.startswith(topics.BASIC_INGEST):
            return SubAckReasonCode.NOT_AUTHORIZED  # rules alone hear what is published there
        subscriptions = self._session.subscriptions
        are_many = len(subscriptions) >= self._desk.limits.subscriptions
        are_large = self._filters_bytes + topics.footprint(pattern) > FILTERS_BYTES_MAX
        if (are_many or are_large) and pattern not in subscriptions:
            return SubAckReasonCode.QUOTA_EXCEEDED
        return None if self._grant.subscribe(topic_filter) else SubAckReasonCode.NOT_AUTHORIZED

    def _add(self, wanted: TopicFilter, identifier: int, retained: list[Parcel] | None) -> Barrier:
        """Make one subscription, and add to `retained` what it is owed now."""
        as_published = wanted.retain_as_published and self._client.version == 5
        qos = int(wanted.max_qos)
        subscription = Subscription(self._session, wanted.pattern, qos, wanted.no_local, as_published, identifier)
        new = self._desk.router.subscribe(subscription)
        self._filters_bytes += topics.footprint(wanted.pattern) if new else 0
        barrier = self._desk.journal.subscribed(subscription)
        handling = wanted.retain_handling
        if retained is None or wanted.pattern.startswith(PREFIX) or handling is RetainHandling.SEND_NEVER:
            return barrier
        if handling is RetainHandling.SEND_IF_SUBSCRIPTION_NOT_EXISTS and not new:
            return barrier
        ids = (identifier,) if identifier else ()
        found = self._desk.retained.find(wanted.pattern, self._desk.at)
        retained += [Parcel(m, min(m.qos, qos), retain=True, ids=ids) for m in found if self._may_have(m, wanted)]
        return barrier

    def _may_have(self, message: Message, wanted: TopicFilter) -> bool:
        if wanted.no_local and message.client_id == self._session.client_id:
            return False
        return self._grant.receive(message.topic)
