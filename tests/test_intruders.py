"""What clients of a real edge may do, and what they try beyond it: theft of identifiers, wills, forbidden topics.

Everybody here has come in by the front door (`test_entrance`). Policies are files of a running edge, changed by SIGHUP.
"""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from mqtt5 import ConnAckReasonCode, PublishPacket, QoS, Will

from tests import gates
from tests.gates import CONNECT, EVERYTHING, NOT_AUTHORIZED, Gate, allow, deny, endings, kept, refusal
from tests.site import wait_until
from tests.wire import Wire

pytestmark = pytest.mark.processes
both_versions = pytest.mark.parametrize("version", [5, 4])
FAILED = {5: NOT_AUTHORIZED, 4: 0x80}  # in SUBACK
ON_TOPICS = ["iot:Publish", "iot:RetainPublish", "iot:Subscribe", "iot:Receive"]


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gate]:
    with gates.running(tmp_path_factory.mktemp("gate")) as gate:
        yield gate


@pytest.fixture
def gate(started: Gate) -> Iterator[Gate]:
    yield started
    started.disconnect_all()


def payloads(messages: list[PublishPacket]) -> list[bytes]:
    return [message.payload for message in messages]


# -- client identifiers of others --------------------------------------------------------------------------------------


def thieves(gate: Gate, victim: str, version: int) -> Iterator[Any]:
    """Everybody who is in, each trying to be the client `victim`, in all the ways that there are."""
    (gate.directory / "word").write_text("open sesame\n")
    usual, mighty = gate.add(), gate.allowing(EVERYTHING)
    user, login = gate.add(options=("--password-file", "word")).name, {"password": b"open sesame"}
    for options in ({}, kept(version)):
        yield lambda o=options: usual.connect(victim, version, **o)
        yield lambda o=options: mighty.connect(victim, version, **o)
        yield lambda o=options: mighty.connect(victim, version, "passwords", **o)
        yield lambda o=options: gate.open("open", version).connect(victim, **o)
        yield lambda o=options: gate.open("passwords", version, gate.stranger()).connect(
            victim, username=user, **login, **o
        )


@both_versions
@pytest.mark.parametrize("suffix", ["", "-2"], ids=["its name", "another identifier of its own"])
def test_nobody_takes_a_session_from_its_owner(gate: Gate, version: int, suffix: str) -> None:
    owner, publisher = gate.add(), gate.add().connect()
    client_id, topic = owner.name + suffix, f"{owner.name}/t"
    live = owner.connect(client_id, version, **kept(version))
    live.subscribe(topic)
    attempts = list(thieves(gate, client_id, version))
    for attempt in attempts:
        assert refusal(attempt) == NOT_AUTHORIZED
    publisher.publish(topic, b"connected")
    assert payloads(live.exactly(1)) == [b"connected"]
    live.close()
    wait_until(lambda: client_id not in {client["client_id"] for client in gate.daemon.ask("clients")["clients"]})
    publisher.publish(topic, b"away")
    for attempt in attempts:
        assert refusal(attempt) == NOT_AUTHORIZED
    publisher.publish(topic, b"still away")
    back = owner.connect(client_id, version, **kept(version))
    assert back.connack.session_present
    assert payloads(back.exactly(2)) == [b"away", b"still away"]


def test_the_identifier_of_a_device_that_was_never_seen_waits_for_it_alone(gate: Gate) -> None:
    owner = gate.add()
    assert refusal(lambda: gate.add().connect(owner.name)) == NOT_AUTHORIZED
    assert refusal(lambda: gate.open("open").connect(owner.name)) == NOT_AUTHORIZED
    assert not owner.connect(**kept(5)).connack.session_present


# -- wills -------------------------------------------------------------------------------------------------------------


@both_versions
@pytest.mark.parametrize("topic", ["forbidden/t", "$SYS/broker/clients", "$aws/events/presence/connected/x"])
def test_a_will_for_a_forbidden_topic_is_refused_with_its_client(gate: Gate, version: int, topic: str) -> None:
    device = gate.allowing(EVERYTHING, deny("iot:Publish", "topic/forbidden/*"))
    assert refusal(lambda: device.connect(version=version, will=Will(topic, payload=b"x"))) == NOT_AUTHORIZED
    assert device.connect(version=version, will=Will("allowed/t", payload=b"x")).heard() == []


@both_versions
def test_a_retained_will_needs_leave_to_retain(gate: Gate, version: int) -> None:
    device = gate.allowing(EVERYTHING, deny("iot:RetainPublish", "*"))
    will = Will("allowed/t", payload=b"x", retain=True)
    assert refusal(lambda: device.connect(version=version, will=will)) == NOT_AUTHORIZED


@both_versions
def test_a_will_is_not_published_when_its_topic_has_been_forbidden_since(gate: Gate, version: int) -> None:
    policy = gate.policy(EVERYTHING)
    dying, watching = gate.add(policy), gate.add().connect()
    watching.subscribe("last/words")
    dying.connect(version=version, will=Will("last/words", payload=b"allowed")).cut()
    assert payloads(watching.take(1)) == [b"allowed"]
    live = dying.connect(version=version, will=Will("last/words", payload=b"forbidden"))
    gate.policy(EVERYTHING, deny("iot:Publish", "topic/last/words"), name=policy)
    assert live.heard() == []
    before = gate.dropped("not authorized")
    live.cut()
    wait_until(lambda: gate.dropped("not authorized") == before + 1)
    assert watching.heard() == []


def test_the_will_of_a_revoked_device_is_not_published_at_once_or_later(gate: Gate) -> None:
    watching = gate.add().connect()
    watching.subscribe("last/words")
    before = gate.dropped("not authorized")
    for delay in (0, 1):
        device = gate.add()
        live = device.connect(will=Will("last/words", payload=b"x", will_delay_interval=delay), **kept(5))
        gate.change("revoke", device.name)
        assert endings(live) == [NOT_AUTHORIZED]
    wait_until(lambda: gate.dropped("not authorized") == before + 2)
    assert watching.heard() == []


# -- policies ----------------------------------------------------------------------------------------------------------


def test_a_forbidden_publish_is_told_to_mqtt_5_and_ends_an_mqtt_311_connection(gate: Gate) -> None:
    device = gate.allowing(CONNECT, allow(["iot:Publish"], "topic/mine/*"))
    watching = gate.add().connect()
    watching.subscribe("mine/t", "others/t")
    with device.connect() as wire:
        for qos in (0, 1, 2):
            assert wire.publish("others/t", b"no", qos) == (NOT_AUTHORIZED if qos else 0)
            assert wire.publish("mine/t", b"%d" % qos, qos) == 0
        assert wire.heard() == []
    assert payloads(watching.exactly(3)) == [b"0", b"1", b"2"]
    for qos in (0, 1, 2):
        with device.connect(version=4) as wire:
            assert wire.publish("mine/t", b"%d" % qos, qos) == 0
            packet_id = 900 if qos else None
            wire.send(PublishPacket("others/t", b"no", qos=QoS(qos), packet_id=packet_id))
            assert wire.rest() == []
    assert payloads(watching.exactly(3)) == [b"0", b"1", b"2"]


@both_versions
def test_only_filters_that_are_allowed_are_granted(gate: Gate, version: int) -> None:
    device = gate.allowing(CONNECT, allow("iot:Subscribe", "topicfilter/mine/*"), allow("iot:Receive", "*"))
    wire = device.connect(version=version)
    good, bad = ["mine/t", "mine/#", "$share/g/mine/t"], ["others/t", "#", "+/t", "mine", "$share/g/#", "$share/mine/+"]
    assert wire.subscribe(*good, *bad) == [2] * len(good) + [FAILED[version]] * len(bad)


@both_versions
def test_a_subscriber_receives_only_what_it_may(gate: Gate, version: int) -> None:
    device = gate.allowing(CONNECT, allow("iot:Subscribe", "*"), allow("iot:Receive", "topic/plant/mine"))
    wire, publisher = device.connect(version=version), gate.add().connect()
    publisher.publish("plant/others", b"kept", retain=True)
    assert wire.subscribe("plant/#", "$share/g/plant/+") == [2, 2]
    publisher.publish("plant/others", b"no")
    publisher.publish("plant/mine", b"yes")
    assert payloads(wire.exactly(2)) == [b"yes", b"yes"]
    publisher.publish("plant/others", b"", retain=True)


def test_retaining_needs_leave_of_its_own(gate: Gate) -> None:
    device = gate.allowing(EVERYTHING, deny("iot:RetainPublish", "topic/state/closed"))
    with device.connect() as wire:
        assert wire.publish("state/closed", b"x") == 0
        assert wire.publish("state/closed", b"x", retain=True) == NOT_AUTHORIZED
        assert wire.publish("state/open", b"x", retain=True) == 0
        wire.subscribe("state/#")
        assert [message.topic for message in wire.exactly(1)] == ["state/open"]
        wire.publish("state/open", b"", retain=True)


def test_a_denial_wins_whichever_policy_says_it(gate: Gate) -> None:
    denying = gate.policy(deny("iot:Publish", "topic/t"))
    everything = gate.policy(EVERYTHING)
    for policies in ((denying, everything), (everything, denying)):
        with gate.add(*policies).connect() as wire:
            assert wire.publish("t") == NOT_AUTHORIZED
            assert wire.publish("u") == 0


@both_versions
def test_a_policy_that_is_not_there_leaves_nothing_allowed(gate: Gate, version: int) -> None:
    everything, ghost = gate.policy(EVERYTHING), gate.new_name("ghost")
    device = gate.add(everything, ghost)
    assert refusal(lambda: device.connect(version=version)) == NOT_AUTHORIZED
    gate.policy(CONNECT, name=ghost)
    assert device.connect(version=version).heard() == []


@both_versions
def test_new_policies_hold_for_live_connections(gate: Gate, version: int) -> None:
    policy = gate.policy(EVERYTHING)
    publishing, subscribing, receiving = gate.add(policy), gate.add(policy), gate.add(policy)
    neighbour = gate.add().connect()
    wires = [device.connect(version=version) for device in (publishing, subscribing, receiving)]
    wires[1].subscribe("mine/#", "hall/#")
    wires[2].subscribe("hall/#")
    assert wires[0].publish("hall/t", b"before") == 0
    assert [payloads(wire.exactly(1)) for wire in wires[1:]] == [[b"before"], [b"before"]]
    gate.policy(
        EVERYTHING, deny("iot:Publish", "topic/hall/*"), deny("iot:Subscribe", "topicfilter/mine/*"),
        deny("iot:Receive", "topic/hall/*"), name=policy,
    )  # fmt: skip
    assert endings(wires[1]) == ([NOT_AUTHORIZED] if version == 5 else [])
    neighbour.publish("hall/t", b"after")
    assert wires[2].heard() == []
    if version == 5:
        assert wires[0].publish("hall/t") == NOT_AUTHORIZED
    else:
        wires[0].send(PublishPacket("hall/t", b"x", qos=QoS.AT_LEAST_ONCE, packet_id=900))
        assert wires[0].rest() == []
    gate.policy(EVERYTHING, deny("iot:Connect", "*"), name=policy)
    assert endings(wires[2]) == ([NOT_AUTHORIZED] if version == 5 else [])
    assert refusal(lambda: receiving.connect(version=version)) == NOT_AUTHORIZED
    assert neighbour.heard() == []


@both_versions
def test_what_waits_for_an_absent_subscriber_is_not_sent_when_it_is_forbidden_meanwhile(
    gate: Gate, version: int
) -> None:
    policy = gate.policy(EVERYTHING)
    device, publisher = gate.add(policy), gate.add().connect()
    with device.connect(version=version, **kept(version)) as wire:
        wire.subscribe("secret/t", "plain/t", "gone/t")
    for topic in ("secret/t", "plain/t"):
        publisher.publish(topic, topic.encode())
    lost = deny("iot:Subscribe", "topicfilter/gone/t")
    gate.policy(EVERYTHING, deny("iot:Receive", "topic/secret/*"), lost, name=policy)
    back = device.connect(version=version, **kept(version))
    assert back.connack.session_present
    publisher.publish("gone/t")
    assert payloads(back.exactly(1)) == [b"plain/t"]


def test_a_fault_in_one_file_changes_nothing_and_is_logged_with_its_place(gate: Gate) -> None:
    policy = gate.policy(EVERYTHING, deny("iot:Publish", "topic/closed"))
    live = gate.add(policy).connect()
    live.subscribe("open")
    files = gate.directory / "policies"
    before = (files / f"{policy}.json").read_text()
    (files / f"{policy}.json").write_text(before.replace("Deny", "Allow"))
    (files / "broken.yaml").write_text(
        'Version: "2012-10-17"\nStatement:\n  - Effect: Allow\n    Action: iot:Publsh\n    Resource: "*"\n'
    )
    assert "broken.yaml:4:13: " in gate.reload()
    log = gate.daemon.log.read_text()
    assert "broken.yaml:4:13: Action 'iot:Publsh': no such action; did you mean iot:Publish?" in log
    assert live.publish("closed") == NOT_AUTHORIZED
    assert live.publish("open", b"still") == 0
    assert payloads(live.exactly(1)) == [b"still"]
    assert refusal(lambda: gate.add("broken").connect()) == NOT_AUTHORIZED
    (files / "broken.yaml").unlink()
    assert gate.reload() == ""
    assert live.publish("closed") == 0


@both_versions
def test_topics_of_the_server_are_closed_whatever_policies_say(gate: Gate, version: int) -> None:
    mighty = gate.allowing(EVERYTHING)
    watching = mighty.connect()
    topics = [
        "$SYS/broker/version", "$SYS", "$share/g/t", "$tidegate/frames/press-hall/all", "$tidegate/x", "$aws",
        "$aws/events/presence/connected/victim", "$aws/rules", "$aws/things/x/shadow/update/accepted",
    ]  # fmt: skip
    watching.subscribe("$aws/#", "$tidegate/#", "$SYS/broker/version")
    watching.drained()
    for number, (who, topic) in enumerate((who, topic) for who in ("device", "anyone") for topic in topics):
        client_id = f"{mighty.name}-{number}"
        wire = mighty.connect(client_id, version) if who == "device" else gate.open("open", version).connect(client_id)
        if version == 5:
            assert wire.publish(topic, b"forged") == NOT_AUTHORIZED, topic
        else:
            wire.send(PublishPacket(topic, b"forged", qos=QoS.AT_LEAST_ONCE, packet_id=1))
            assert wire.rest() == [], topic
        wire.close()
    assert [message for message in watching.drained() if message.payload == b"forged"] == []
    plain = mighty.connect(f"{mighty.name}-plain", version)
    assert plain.publish("$other/t") == 0


@both_versions
def test_nobody_listens_to_basic_ingest_and_nobody_speaks_as_the_server_by_it(gate: Gate, version: int) -> None:
    mighty, usual = gate.allowing(EVERYTHING), gate.add()
    watching = mighty.connect(mighty.name, version)
    assert watching.subscribe("$aws/rules/#", "$aws/rules/x/t", "$share/g/$aws/rules/+/t", "$aws/#") == [
        FAILED[version], FAILED[version], FAILED[version], 2,
    ]  # fmt: skip
    watching.drained()
    assert usual.connect(version=5).publish("$aws/rules/x/t", b"for a rule") == 0
    everyone = gate.open("open", 5).connect("someone")
    assert everyone.publish("$aws/rules/x/t", b"for a rule") == 0
    for who in (usual.connect(f"{usual.name}-2"), everyone):
        assert who.publish("$aws/rules/x/$aws/events/presence/connected/victim") == NOT_AUTHORIZED
    assert [message for message in watching.drained() if message.payload == b"for a rule"] == []


@pytest.mark.parametrize(
    ("client_id", "usable"),
    [("#", False), ("+", False), ("../..", False), ("a/b", False), ("/", False), ("$x", False),
     ("${iot:ClientId}", False), ("*", True), ("?", True), ("__class__", True), ("é🌊", True), (" ", True)],
)  # fmt: skip
def test_a_client_identifier_widens_no_policy(gate: Gate, client_id: str, usable: bool) -> None:
    own = ["topic/my/${iot:ClientId}/t", "topicfilter/my/${iot:ClientId}/t", "topicfilter/my/${iot:ClientId}/#"]
    device = gate.allowing(CONNECT, allow(ON_TOPICS, *own))
    wire = device.connect(client_id)
    for topic in ("my/other/t", "my/x/t", "my//t", "my/other/more/t", "my", "other"):
        assert wire.publish(topic) == NOT_AUTHORIZED
    for pattern in ("my/other/t", "my/+/t", "my/#", "#", "my/+/#", "+/+/t", "$share/g/my/+/t"):
        assert wire.subscribe(pattern) == [NOT_AUTHORIZED]
    if usable:
        assert wire.subscribe(f"my/{client_id}/t", f"my/{client_id}/#") == [2, 2]
        assert wire.publish(f"my/{client_id}/t") == 0
        assert len(wire.take(1)) == 1
    elif not set(client_id) & set("#+"):
        assert wire.publish(f"my/{client_id}/t") == NOT_AUTHORIZED


@pytest.mark.parametrize("client_id", ["#", "+", "*", "?", "../..", "press/1", "${iot:ClientId}", "é"])
def test_a_client_identifier_is_compared_as_it_is_at_connect(gate: Gate, client_id: str) -> None:
    device = gate.allowing(allow("iot:Connect", "client/press", "client/${iot:Connection.Thing.ThingName}"))
    assert refusal(lambda: device.connect(client_id)) == NOT_AUTHORIZED
    assert device.connect().heard() == []


@both_versions
def test_a_client_identifier_of_300_characters_is_refused(gate: Gate, version: int) -> None:
    device = gate.allowing(EVERYTHING)
    assert refusal(lambda: device.connect("x" * 300, version)) == ConnAckReasonCode.CLIENT_ID_NOT_VALID


def test_attributes_of_a_thing_open_its_topics_and_follow_their_changes(gate: Gate) -> None:
    attribute = "${iot:Connection.Thing.Attributes[line]}"
    policy = gate.policy(CONNECT, allow(ON_TOPICS, f"topic/line/{attribute}/*", f"topicfilter/line/{attribute}/*"))
    device = gate.add(policy, options=("--attribute", "line=3"))
    wire = device.connect()
    assert wire.publish("line/3/t") == 0
    assert wire.publish("line/4/t") == NOT_AUTHORIZED
    assert wire.subscribe("line/3/#", "line/4/#", "line/+/#") == [2, NOT_AUTHORIZED, NOT_AUTHORIZED]
    wire.unsubscribe("line/3/#")
    gate.change("set", device.name, "--attribute", "line=4")
    assert wire.publish("line/3/t") == NOT_AUTHORIZED
    assert wire.publish("line/4/t") == 0
    wire.subscribe("line/4/#")
    for value in ("a/b", "#", ""):
        gate.change("set", device.name, "--attribute", f"line={value}")
        if value == "a/b":
            assert endings(wire) == [NOT_AUTHORIZED]
            wire = device.connect()
        for topic in ("line/3/t", "line/4/t", "line/a/b/t", "line//t"):
            assert wire.publish(topic) == NOT_AUTHORIZED
        assert wire.subscribe("line/#", "line/+/t") == [NOT_AUTHORIZED] * 2


# -- what is told of who comes and goes --------------------------------------------------------------------------------


def told(watching: Wire) -> dict[str, Any]:
    (message,) = watching.take(1)
    fields: dict[str, Any] = json.loads(message.payload)
    kind, name = ("presence", "subscriptions")["topics" in fields], fields["eventType"]
    assert message.topic == f"$aws/events/{kind}/{name}/{fields['clientId']}"
    assert isinstance(fields.pop("timestamp"), int)
    return fields


@both_versions
def test_lifecycle_events_tell_who_may_know_what_becomes_of_a_device(gate: Gate, version: int) -> None:
    device, events = gate.add(), gate.allowing(EVERYTHING).connect()
    assert device.connect(f"{device.name}-x").subscribe("$aws/events/#", "$aws/events/presence/+/x") == [0x87, 0x87]
    events.subscribe(*(f"$aws/events/+/+/{device.name}{suffix}" for suffix in ("", "-2")))
    wire = device.connect(version=version)
    connected = told(events)
    session, number = connected["sessionIdentifier"], connected["versionNumber"]
    common = {"clientId": device.name, "sessionIdentifier": session, "principalIdentifier": device.name}
    assert connected == {**common, "eventType": "connected", "ipAddress": "127.0.0.1", "versionNumber": number}
    wire.subscribe("a", "b/#")
    assert told(events) == {**common, "eventType": "subscribed", "topics": ["a", "b/#"]}
    wire.unsubscribe("a")
    assert told(events) == {**common, "eventType": "unsubscribed", "topics": ["a"]}
    wire.disconnect()
    assert told(events) == {
        **common, "eventType": "disconnected", "clientInitiatedDisconnect": True, "versionNumber": number,
        "disconnectReason": "CLIENT_INITIATED_DISCONNECT",
    }  # fmt: skip
    wire = device.connect(version=version)
    assert told(events)["versionNumber"] > number
    gate.change("revoke", device.name)
    assert endings(wire) == ([NOT_AUTHORIZED] if version == 5 else [])
    wire.close()
    gone = told(events)
    assert (gone["clientInitiatedDisconnect"], gone["disconnectReason"]) == (False, "FORBIDDEN_ACCESS")
    assert events.heard() == []
