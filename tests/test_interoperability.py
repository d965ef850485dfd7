"""Real clients on an edge: paho in both versions, mosquitto's tools, the AWS IoT device SDK; nothing of them is ours.

What a client library does not let a test say is said packet by packet in `test_conformance`.
"""

import json
import queue
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import paho.mqtt.client as paho
import pytest
from awscrt import mqtt5 as aws
from awsiot import mqtt5_client_builder
from mqtt5 import Will

from core.config import HostPort
from tests import brokers
from tests.certificates import Authority
from tests.wire import PATIENCE_SECONDS, Clients, Device, properties

pytestmark = pytest.mark.processes
both_versions = pytest.mark.parametrize("version", [5, 4])
TOOL_VERSION = {4: "mqttv311", 5: "mqttv5"}
FOR_EVER = 0xFFFF_FFFF


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def edge(tmp_path_factory: pytest.TempPathFactory, authority: Authority) -> Iterator[brokers.Edge]:
    with brokers.running(tmp_path_factory.mktemp("edge"), authority) as started:
        yield started


@pytest.fixture
def clients(edge: brokers.Edge) -> Iterator[Clients]:
    made = Clients(edge.address)
    yield made
    made.close()


def told(messages: list[paho.MQTTMessage]) -> list[tuple[bytes, int, bool]]:
    return [(message.payload, message.qos, bool(message.retain)) for message in messages]


def publish_at_each_qos(device: Device, clients: Clients, *, retain: bool = False, **more: Any) -> None:
    for qos, topic in enumerate(clients.topics("TopicA/B", "Topic/C", "TopicA/C")):
        device.publish(topic, f"qos {qos}".encode(), qos, retain=retain, **more)


# -- paho --------------------------------------------------------------------------------------------------------------


@both_versions
def test_a_message_keeps_its_quality_of_service(clients: Clients, version: int) -> None:
    device = clients.device("a", version).connect()
    (everything,) = clients.topics("#")
    assert device.subscribe((everything, 2)) == [2]
    publish_at_each_qos(device, clients)
    assert told(device.heard()) == [(b"qos 0", 0, False), (b"qos 1", 1, False), (b"qos 2", 2, False)]


@both_versions
def test_retained_messages_come_to_new_subscriptions_until_they_are_cleared(clients: Clients, version: int) -> None:
    device = clients.device("a", version).connect()
    (everything,) = clients.topics("#")
    publish_at_each_qos(device, clients, retain=True)
    device.subscribe((everything, 2))
    assert sorted(told(device.heard())) == [(b"qos 0", 0, True), (b"qos 1", 1, True), (b"qos 2", 2, True)]
    device.unsubscribe(everything)
    for qos, topic in enumerate(clients.topics("TopicA/B", "Topic/C", "TopicA/C")):
        device.publish(topic, b"", qos, retain=True)
    device.subscribe((everything, 2))
    assert device.heard() == []


@both_versions
def test_messages_for_an_absent_subscriber_wait_for_it(clients: Clients, version: int) -> None:
    absent = clients.device("a", version, clean=False, expiry=FOR_EVER).connect()
    assert not absent.session_present
    (everything,) = clients.topics("#")
    absent.subscribe((everything, 2))
    absent.disconnect()
    publish_at_each_qos(clients.device("b", version).connect(), clients)
    back = clients.device("a", version, clean=False, expiry=FOR_EVER).connect()
    assert back.session_present
    payloads = [message.payload for message in back.heard()]
    assert payloads[-2:] == [b"qos 1", b"qos 2"]
    assert payloads[:-2] in ([], [b"qos 0"])  # a broker may keep QoS 0 too, and need not


@both_versions
def test_a_clean_start_ends_the_session_and_what_waited_in_it(clients: Clients, version: int) -> None:
    absent = clients.device("a", version, clean=False, expiry=FOR_EVER).connect()
    (everything,) = clients.topics("#")
    absent.subscribe((everything, 2))
    absent.disconnect()
    publisher = clients.device("b", version).connect()
    publish_at_each_qos(publisher, clients)
    fresh = clients.device("a", version).connect()
    assert not fresh.session_present
    publish_at_each_qos(publisher, clients)
    assert fresh.heard() == []


@both_versions
def test_of_overlapping_subscriptions_the_highest_quality_of_service_counts(clients: Clients, version: int) -> None:
    device = clients.device("a", version).connect()
    wide, narrow, topic = clients.topics("TopicA/#", "TopicA/+", "TopicA/C")
    assert device.subscribe((wide, 2), (narrow, 1)) == [2, 1]
    device.publish(topic, b"overlapping", 2)
    assert sorted(message.qos for message in device.heard()) in ([2], [1, 2])  # one message, or one per subscription


@both_versions
def test_topics_with_a_dollar_reach_no_wildcard_and_cost_nobody_the_connection(clients: Clients, version: int) -> None:
    device = clients.device("a", version).connect()
    device.subscribe(("#", 2), ("+/B", 2))
    device.heard()
    device.publish(f"${clients.root}/B", b"x", 1)
    assert [message.topic for message in device.heard() if message.topic.startswith("$")] == []


@both_versions
def test_an_ended_subscription_brings_nothing_and_the_others_stay(clients: Clients, version: int) -> None:
    device, publisher = clients.device("a", version).connect(), clients.device("b", version).connect()
    gone, *others = clients.topics("TopicA/B", "Topic/C", "TopicA/C")
    device.subscribe((gone, 2), *[(other, 2) for other in others])
    device.unsubscribe(gone)
    publish_at_each_qos(publisher, clients)
    assert told(device.heard()) == [(b"qos 1", 1, False), (b"qos 2", 2, False)]


def test_every_property_of_a_message_arrives_as_it_was_sent(clients: Clients) -> None:
    device = clients.device("a").connect()
    (everything,) = clients.topics("#")
    device.subscribe((everything, 2))
    pairs = [("a", "2"), ("c", "3"), ("a", "2"), ("a", "1"), ("", "")]
    sent = properties(
        "PUBLISH", UserProperty=pairs, PayloadFormatIndicator=1, ContentType="My name",
        ResponseTopic=f"{clients.root}/answers", CorrelationData=b"\x00\xff334", MessageExpiryInterval=600,
    )  # fmt: skip
    publish_at_each_qos(device, clients, properties=sent)
    heard = device.heard()
    assert [message.qos for message in heard] == [0, 1, 2]
    for message in heard:
        told_back = message.properties
        assert told_back is not None
        assert told_back.UserProperty == pairs
        assert (told_back.PayloadFormatIndicator, told_back.ContentType) == (1, "My name")
        assert (told_back.ResponseTopic, told_back.CorrelationData) == (f"{clients.root}/answers", b"\x00\xff334")
        assert told_back.MessageExpiryInterval in {599, 600}


def test_a_request_is_answered_on_the_topic_that_it_names(clients: Clients) -> None:
    asking, answering = clients.device("a").connect(), clients.device("b").connect()
    (topic,) = clients.topics("TopicA")
    options = paho.SubscribeOptions(2, noLocal=True)
    asking.subscribe((topic, options))
    answering.subscribe((topic, options))
    asking.publish(topic, b"request", properties=properties("PUBLISH", ResponseTopic=topic, CorrelationData=b"334"))
    (request,) = answering.heard()
    assert request.properties is not None
    back = properties("PUBLISH", CorrelationData=request.properties.CorrelationData)
    answering.publish(request.properties.ResponseTopic, b"response", properties=back)
    (response,) = asking.heard()
    assert response.payload == b"response"
    assert response.properties is not None
    assert response.properties.CorrelationData == b"334"
    assert answering.heard() == []


def test_a_shared_subscription_brings_each_message_to_one_member(clients: Clients) -> None:
    members = [clients.device(name).connect() for name in "abc"]
    own, topic = clients.topics("own", "shared")
    for member in members:
        assert member.subscribe((f"$share/group/{topic}", 2), (own, 2)) == [2, 2]
    publisher = clients.device("p").connect()
    for number in range(30):
        publisher.publish(topic, str(number).encode(), number % 3)
    publisher.publish(own, b"for each")
    heard = [[message.payload for message in member.heard()] for member in members]
    assert all(payloads.pop() == b"for each" for payloads in heard)
    assert sorted(int(payload) for payloads in heard for payload in payloads) == list(range(30))
    assert all(payloads for payloads in heard)
    assert all(payloads == sorted(payloads, key=int) for payloads in heard)


# -- mosquitto's command line ------------------------------------------------------------------------------------------


def tool(name: str, address: HostPort, *arguments: str, version: int = 5) -> list[str]:
    return [f"mosquitto_{name}", "-h", address.host, "-p", str(address.port), "-V", TOOL_VERSION[version], *arguments]


def run(command: list[str], given: str | None = None) -> str:
    """Its output; a code other than 0 is a failure."""
    done = subprocess.run(command, input=given, capture_output=True, text=True, timeout=PATIENCE_SECONDS)
    assert done.returncode == 0, (command, done.returncode, done.stdout, done.stderr)
    return done.stdout


@both_versions
def test_mosquitto_pub_and_sub_exchange_ten_thousand_messages_exactly_once(clients: Clients, version: int) -> None:
    topic, ready = clients.topics("lines", "ready")
    lines = "".join(f"{number}\n" for number in range(10_000))
    run(tool("pub", clients.address, "-t", ready, "-m", "ready", "-r", version=version))
    qos = "2" if version == 4 else "1"  # mosquitto_sub 2.0.11 miscounts its own MQTT 5 receive maximum at QoS 2
    command = tool("sub", clients.address, "-t", topic, "-t", ready, "-q", qos, "-C", "10001", version=version)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as listening:
        assert listening.stdout is not None
        assert listening.stdout.readline() == "ready\n"
        run(tool("pub", clients.address, "-t", topic, "-q", "2", "-l", version=version), lines)
        heard, _ = listening.communicate(timeout=PATIENCE_SECONDS)
    assert heard == lines


@both_versions
def test_mosquitto_sub_collects_what_waited_in_its_session(clients: Clients, version: int) -> None:
    (topic,) = clients.topics("waiting")
    more = ["-x", "60"] if version == 5 else []
    session = ["-t", topic, "-q", "1", "-i", f"{clients.root}-s", "-c", *more]
    run(tool("sub", clients.address, *session, "-E", version=version))
    for number in range(3):
        run(tool("pub", clients.address, "-t", topic, "-q", "1", "-m", str(number), version=version))
    assert run(tool("sub", clients.address, *session, "-C", "3", version=version)) == "0\n1\n2\n"


@both_versions
def test_the_retained_will_of_a_killed_mosquitto_sub_is_published(clients: Clients, version: int) -> None:
    will, topic = clients.topics("will", "up")
    watching = clients.wire("w", version)
    watching.subscribe(will)
    last_words = ["--will-topic", will, "--will-payload", "gone", "--will-qos", "1", "--will-retain"]
    command = tool("sub", clients.address, "-t", topic, "-q", "1", "-v", *last_words, version=version)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as dying:
        assert dying.stdout is not None
        run(tool("pub", clients.address, "-t", topic, "-m", "hello", "-r", version=version))
        assert dying.stdout.readline() == f"{topic} hello\n"
        dying.kill()
    (message,) = watching.exactly(1)
    assert (message.payload, message.retain) == (b"gone", False)
    shown = tool("sub", clients.address, "-t", will, "-q", "1", "-C", "1", "-F", "%r %q %p", version=version)
    assert run(shown) == "1 1 gone\n"


def test_mosquitto_rr_hears_the_answer_to_its_request(clients: Clients) -> None:
    asking, answers = clients.topics("ask", "answers")
    answering = clients.device("a").connect()
    answering.subscribe((asking, 1))
    command = tool("rr", clients.address, "-t", asking, "-e", answers, "-m", "how much", "-q", "1")
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as waiting:
        (request,) = answering.take(1)
        assert request.properties is not None
        assert request.properties.ResponseTopic == answers
        answering.publish(answers, b"42")
        heard, _ = waiting.communicate(timeout=PATIENCE_SECONDS)
    assert heard == "42\n"


def test_mosquitto_sub_sees_the_properties_that_mosquitto_pub_sent(clients: Clients) -> None:
    (topic,) = clients.topics("properties")
    with_all = ["-D", "publish", "content-type", "text/plain", "-D", "publish", "user-property", "a", "b"]
    run(tool("pub", clients.address, "-t", topic, "-m", "x", "-r", "-q", "1", *with_all))
    shown = json.loads(run(tool("sub", clients.address, "-t", topic, "-C", "1", "-F", "%j")))
    assert shown["properties"]["content-type"] == "text/plain"
    assert shown["properties"]["user-properties"] == {"a": "b"}


# -- the AWS IoT device SDK --------------------------------------------------------------------------------------------


class Thing:
    """The SDK's MQTT 5 client with a certificate; `connected` tells of each connection whether a session was there."""

    def __init__(self, address: HostPort, authority: Authority, name: str) -> None:
        certificate, key = authority.sign(name)
        self.connected: queue.Queue[bool] = queue.Queue()
        self.stopped: queue.Queue[None] = queue.Queue()
        self.heard: queue.Queue[aws.PublishPacket] = queue.Queue()
        self.client = mqtt5_client_builder.mtls_from_path(
            endpoint="localhost", port=address.port, cert_filepath=str(certificate), pri_key_filepath=str(key),
            ca_filepath=str(authority.path), client_id=name,
            connect_options=aws.ConnectPacket(client_id=name, session_expiry_interval_sec=600),
            session_behavior=aws.ClientSessionBehaviorType.REJOIN_ALWAYS,
            on_publish_received=lambda received: self.heard.put(received.publish_packet),
            on_lifecycle_connection_success=lambda data: self.connected.put(data.connack_packet.session_present),
            on_lifecycle_stopped=lambda _: self.stopped.put(None),
        )  # fmt: skip

    def start(self) -> bool:
        """Connect; whether a session was there."""
        self.client.start()
        return self.connected.get(timeout=PATIENCE_SECONDS)

    def stop(self) -> None:
        """Disconnect."""
        self.client.stop()
        self.stopped.get(timeout=PATIENCE_SECONDS)

    def subscribe(self, topic: str) -> list[int]:
        """The codes of the SUBACK."""
        wanted = aws.SubscribePacket([aws.Subscription(topic_filter=topic, qos=aws.QoS.AT_LEAST_ONCE)])
        return [int(code) for code in self.client.subscribe(wanted).result(PATIENCE_SECONDS).reason_codes]

    def publish(self, topic: str, payload: bytes) -> int:
        """The code of the PUBACK."""
        packet = aws.PublishPacket(topic=topic, qos=aws.QoS.AT_LEAST_ONCE, payload=payload)
        return int(self.client.publish(packet).result(PATIENCE_SECONDS).puback.reason_code)


def test_the_aws_device_sdk_publishes_subscribes_and_resumes_its_session(
    edge: brokers.Edge, authority: Authority, clients: Clients
) -> None:
    thing, other = (Thing(edge.tls, authority, f"{clients.root}-{name}") for name in ("press", "other"))
    (topic,) = clients.topics("telemetry")
    assert not thing.start()
    assert thing.subscribe(topic) == [1]
    assert thing.publish(topic, b"to itself") == 0
    heard = thing.heard.get(timeout=PATIENCE_SECONDS)
    assert (heard.topic, heard.payload, heard.qos) == (topic, b"to itself", aws.QoS.AT_LEAST_ONCE)
    thing.stop()
    other.start()
    assert other.publish(topic, b"meanwhile") == 0
    assert thing.start()
    while (payload := thing.heard.get(timeout=PATIENCE_SECONDS).payload) != b"meanwhile":
        assert payload == b"to itself"  # again, when it stopped before it had acknowledged it
    thing.stop()
    other.stop()


# -- the silent --------------------------------------------------------------------------------------------------------


@both_versions
def test_a_client_that_has_gone_silent_is_given_up_and_one_that_pings_is_not(clients: Clients, version: int) -> None:
    (will,) = clients.topics("will")
    watching = clients.device("w", version).connect(keepalive=1)  # paho pings
    watching.subscribe((will, 1))
    started = time.monotonic()
    silent = clients.wire("s", version, keep_alive=1, will=Will(will, payload=b"gone"))
    (message,) = watching.take(1)
    assert message.payload == b"gone"
    assert time.monotonic() - started >= 1.5 - 0.1  # section 3.1.2.10: not before one and a half times
    assert watching.client.is_connected()
    silent.rest()
