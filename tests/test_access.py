"""Topics that begin with `$` belong to the server; an edge sends frames under its own name."""

import pytest
from mqtt5 import ConnAckReasonCode, ConnectPacket

from core import frames
from core.mqtt.access import Identity
from devices.access import OpenAccess

AT_EDGE = OpenAccess()
AT_CLOUD = OpenAccess(frames.TOPIC_ROOT)
ANONYMOUS = Identity("somebody", "192.0.2.1:5000", None)
HALL = Identity("tidegate-edge-hall", "192.0.2.1:5000", "hall")


@pytest.mark.parametrize("access", [AT_EDGE, AT_CLOUD])
@pytest.mark.parametrize("identity", [ANONYMOUS, HALL])
def test_everybody_may_connect_publish_and_subscribe(access: OpenAccess, identity: Identity) -> None:
    assert access.connect(identity, ConnectPacket("somebody")) is ConnAckReasonCode.SUCCESS
    assert access.publish(identity, "plant/1/telemetry")
    assert access.publish(identity, "a$b/$c")
    assert access.subscribe(identity, "#")


@pytest.mark.parametrize("access", [AT_EDGE, AT_CLOUD])
@pytest.mark.parametrize("topic", ["$", "$SYS/uptime", "$tidegate", "$tidegate/other/hall", "$aws/things/x"])
def test_nobody_publishes_to_topics_of_the_server(access: OpenAccess, topic: str) -> None:
    assert not access.publish(ANONYMOUS, topic)
    assert not access.publish(HALL, topic)


def test_frames_are_for_the_cloud_only() -> None:
    topic = frames.topic("hall", "telemetry")
    assert not AT_EDGE.publish(HALL, topic)
    assert not AT_EDGE.publish(ANONYMOUS, topic)


@pytest.mark.parametrize(
    ("topic", "allowed"),
    [
        (frames.topic("hall", "telemetry"), True),
        (frames.topic("yard", "telemetry"), False),
        (frames.topic("hall-2", "telemetry"), False),
        (frames.topic("hal", "telemetry"), False),
        (frames.topic("HALL", "telemetry"), False),
        (frames.topic("", "direct"), False),
        (frames.TOPIC_ROOT, False),
        (frames.TOPIC_ROOT.rstrip("/"), False),
    ],
)
def test_a_certificate_is_good_for_the_frames_of_that_edge_only(topic: str, allowed: bool) -> None:
    assert AT_CLOUD.publish(HALL, topic) is allowed


def test_without_a_certificate_an_edge_is_believed_where_the_listener_lets_it_in() -> None:
    assert AT_CLOUD.publish(ANONYMOUS, frames.topic("hall", "telemetry"))


def test_a_certificate_without_a_name_is_nobody() -> None:
    nameless = Identity("x", "192.0.2.1:5000", "")
    assert not AT_CLOUD.publish(nameless, frames.topic("hall", "telemetry"))
