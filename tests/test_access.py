"""Who may connect, as what, and what they may do then; what changes under a live connection."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import pytest
from mqtt5 import ConnAckReasonCode, ConnectPacket

from core import frames
from core.mqtt.access import Access, Certificate, Grant, Peer
from core.telemetry import Counters
from devices import passwords
from devices.access import CAUSES_MAX, CHECKS_MAX, DeviceAccess, DeviceGrant, OpenAccess, Refused, Reserved, explain
from devices.policies import Policy, PolicySet
from devices.policy_files import parse, read
from devices.registry import Registered, Status, Thing

LOCAL = "tidegate authority 7f3a"
PLANT = "plant authority"
NOT_AUTHORIZED = ConnAckReasonCode.NOT_AUTHORIZED
BAD_LOGIN = ConnAckReasonCode.BAD_USER_NAME_OR_PASSWORD
BUILT_IN = read(None)
SHADOWS = Reserved(served=("$aws/things/",))


@dataclass
class Registry:
    """What is asked of a registry; a change is a new mapping, as there."""

    things: dict[str, Thing] = field(default_factory=dict)
    certificates: dict[str, Registered] = field(default_factory=dict)

    def add(self, name: str, *, policies: tuple[str, ...] = (), password: str | None = None, **attributes: str) -> None:
        self.things = {**self.things, name: Thing(name, attributes, policies, password, 0)}

    def certify(self, certificate_id: str, thing: str | None, status: Status = Status.ACTIVE) -> None:
        self.certificates = {**self.certificates, certificate_id: Registered(certificate_id, thing, status, "", 0, 0)}


def certificate(
    common_name: str, *, issuer: str = LOCAL, id_: str = "c1", serial: str = "0A1B", vouched: bool | None = None
) -> Certificate:
    """As a listener reports it whose client_ca is the plant's."""
    subject = {"commonName": common_name} if common_name else {"organizationName": "nobody"}
    is_vouched = issuer == PLANT if vouched is None else vouched
    return Certificate(id_, subject, {"commonName": issuer}, serial, b"", (f"id of {issuer}",), is_vouched)


def peer(common_name: str | None = None, *, anonymous: bool = False, passwords: bool = False, **more: Any) -> Peer:
    shown = certificate(common_name, **more) if common_name is not None else None
    return Peer("192.0.2.1:5000", shown, anonymous, passwords)


def access_to(registry: Registry, policies: PolicySet = BUILT_IN, **more: Any) -> DeviceAccess:
    return DeviceAccess(registry, policies, Counters(), local_issuer=LOCAL, **more)


def asked(access: Access, who: Peer, client_id: str, **packet: Any) -> Grant | ConnAckReasonCode | None:
    """The answer, None when it has not come yet."""
    answers: list[Grant | ConnAckReasonCode] = []
    access.connect(who, client_id, ConnectPacket(client_id, **packet), answers.append)
    assert len(answers) <= 1
    return answers[0] if answers else None


def admitted(access: DeviceAccess, who: Peer, client_id: str) -> DeviceGrant:
    grant = asked(access, who, client_id)
    assert isinstance(grant, DeviceGrant), grant
    return grant


@pytest.fixture
def registry() -> Registry:
    found = Registry()
    found.add("press", site="hall-1")
    found.certify("c1", "press")
    return found


def allowing(*statements: str) -> Policy:
    return parse("mine", 'Version: "2012-10-17"\nStatement:\n' + "".join(f"  - {text}\n" for text in statements))


# -- certificates -----------------------------------------------------------------------------------------------------


def test_a_registered_certificate_is_the_thing_it_is_attached_to(registry: Registry) -> None:
    grant = admitted(access_to(registry), peer("whatever it says"), "press")
    assert grant.principal == "press"
    assert grant.publish("plant/1", retain=True)


@pytest.mark.parametrize("status", [Status.INACTIVE, Status.REVOKED, Status.PENDING_ACTIVATION])
def test_a_certificate_that_is_not_active_lets_nobody_in(registry: Registry, status: Status) -> None:
    registry.certify("c1", "press", status)
    assert asked(access_to(registry), peer("press"), "press") is NOT_AUTHORIZED


def test_a_certificate_of_no_thing_or_of_a_removed_one_lets_nobody_in(registry: Registry) -> None:
    registry.certify("c1", None)
    assert asked(access_to(registry), peer("press"), "press") is NOT_AUTHORIZED
    registry.certify("c1", "gone")
    assert asked(access_to(registry), peer("press"), "press") is NOT_AUTHORIZED


def test_a_certificate_of_our_own_that_was_removed_lets_nobody_in(registry: Registry) -> None:
    assert asked(access_to(registry), peer("press", id_="c2"), "press") is NOT_AUTHORIZED


def test_a_refused_certificate_is_not_let_in_as_somebody_else(registry: Registry) -> None:
    registry.add("user", password=passwords.hash(b"right"))
    who = Peer("192.0.2.1:5000", certificate("press", id_="c2"), anonymous=True, passwords=True)
    assert asked(access_to(registry), who, "user", username="user", password=b"right") is NOT_AUTHORIZED


def test_the_operators_own_authority_vouches_for_the_common_name(registry: Registry) -> None:
    registry.add("lathe", policies=("mine",), site="yard")
    here = '{Effect: Allow, Action: "*", Resource: ["client/*", "topic/${iot:Connection.Thing.Attributes[site]}"]}'
    mine = allowing(here)
    access = access_to(registry, {**BUILT_IN, "mine": mine})
    stranger = admitted(access, peer("sensor-7.plant.example", issuer=PLANT, id_="p1"), "sensor-7.plant.example")
    assert stranger.principal == "sensor-7.plant.example"
    known = admitted(access, peer("lathe", issuer=PLANT, id_="p2"), "lathe")
    assert (known.publish("yard", retain=False), known.publish("plant/1", retain=False)) == (True, False)


@pytest.mark.parametrize("name", ["", "#", "+", "*", "../..", "..", ".x", "a/b", "a b", "a\n", "ä", "x" * 129, "${x}"])
def test_a_common_name_that_is_no_name_of_a_thing_is_refused(name: str) -> None:
    access = access_to(Registry(), default_policies=("anonymous",))  # which would let anybody connect
    assert asked(access, peer(name, issuer=PLANT), "x") is NOT_AUTHORIZED
    assert admitted(access, peer("good", issuer=PLANT), "x").principal == "good"


def test_a_common_name_that_no_client_ca_vouches_for_is_nobodys(registry: Registry) -> None:
    registry.add("lathe")
    access = access_to(registry)
    for name in ("lathe", "unheard-of"):
        assert asked(access, peer(name, issuer="vendor", id_="v1"), name) is NOT_AUTHORIZED
        assert asked(access, peer(name, issuer=PLANT, id_="p1", vouched=False), name) is NOT_AUTHORIZED


def test_a_certificate_on_a_revocation_list_lets_nobody_in(registry: Registry) -> None:
    access = access_to(registry, revoked=lambda certificate: certificate.id == "p2")
    assert asked(access, peer("lathe", issuer=PLANT, id_="p2"), "lathe") is NOT_AUTHORIZED
    assert admitted(access, peer("lathe", issuer=PLANT, id_="p3"), "lathe").principal == "lathe"
    assert admitted(access, peer("press"), "press").principal == "press"


# -- client identifiers -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("client_id", ["press", "press-2", "press-", "tidegate-edge-press", "auto-0f3a"])
def test_a_device_connects_under_its_own_name(registry: Registry, client_id: str) -> None:
    assert admitted(access_to(registry), peer("press"), client_id).principal == "press"


@pytest.mark.parametrize("client_id", ["", "pres", "press2", "lathe", "PRESS", "#", "+", "*", "__class__", "../.."])
def test_a_device_connects_under_no_other_name(registry: Registry, client_id: str) -> None:
    assert asked(access_to(registry), peer("press"), client_id) is NOT_AUTHORIZED


def test_the_identifier_of_another_device_is_not_to_be_had(registry: Registry) -> None:
    access = access_to(registry)
    grant = admitted(access, peer("press"), "press-2")
    registry.add("press-2")
    assert not grant.refresh()
    assert asked(access, peer("press"), "press-2") is NOT_AUTHORIZED
    assert asked(access, peer(anonymous=True), "press-2") is NOT_AUTHORIZED
    assert asked(access, peer(anonymous=True), "press-3") is not NOT_AUTHORIZED


@pytest.mark.parametrize("thing", ["tidegate-edge", "tidegate", "tidegate-edge-hall-2"])
@pytest.mark.parametrize("registered", [True, False])
def test_no_device_takes_the_identifier_of_an_edge_by_a_clever_name(thing: str, registered: bool) -> None:
    registry = Registry()
    registry.add(thing)
    registry.certify("c1", thing)
    if registered:
        registry.add("hall")
    assert asked(access_to(registry), peer(thing), "tidegate-edge-hall") is NOT_AUTHORIZED
    assert admitted(access_to(registry), peer(thing), thing).principal == thing


def test_an_authority_vouches_for_no_device_whose_name_is_the_identifier_of_an_edge() -> None:
    access = access_to(Registry())
    assert asked(access, peer("tidegate-edge-hall", issuer=PLANT), "tidegate-edge-hall") is NOT_AUTHORIZED
    assert admitted(access, peer("hall", issuer=PLANT), "tidegate-edge-hall").principal == "hall"


def test_without_a_name_an_edge_is_believed_its_identifier_unless_it_is_registered(registry: Registry) -> None:
    access = access_to(registry)
    assert admitted(access, peer(anonymous=True), "tidegate-edge-hall").principal is None
    assert asked(access, peer(anonymous=True), "tidegate-edge-press") is NOT_AUTHORIZED


# -- user names and passwords -----------------------------------------------------------------------------------------


@pytest.fixture
async def checked(registry: Registry) -> AsyncIterator[DeviceAccess]:
    registry.add("lathe", password=passwords.hash(b"right"))
    access = access_to(registry)
    task = asyncio.get_running_loop().create_task(access.logins.run())
    yield access
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def logged_in(access: DeviceAccess, user: str, password: bytes | None, client_id: str = "lathe") -> Any:
    answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    packet = ConnectPacket(client_id, username=user, password=password)
    access.connect(peer(passwords=True), client_id, packet, answer.set_result)
    async with asyncio.timeout(20):
        return await answer


async def test_a_user_is_the_thing_of_that_name(checked: DeviceAccess) -> None:
    grant = await logged_in(checked, "lathe", b"right")
    assert grant.principal == "lathe"
    assert await logged_in(checked, "lathe", b"right", client_id="press") is NOT_AUTHORIZED


@pytest.mark.parametrize(
    ("user", "password"),
    [("lathe", b"wrong"), ("lathe", b""), ("lathe", None), ("nobody", b"right"), ("press", b""), ("press", b"right"),
     ("", b"right"), ("x" * 200, b"right"), ("lathe", b"right" * 1_000)],
)  # fmt: skip
async def test_a_wrong_password_or_user_is_told_alike(checked: DeviceAccess, user: str, password: bytes | None) -> None:
    assert await logged_in(checked, user, password) is BAD_LOGIN


async def test_a_changed_password_ends_live_connections_and_what_was_remembered(
    checked: DeviceAccess, registry: Registry
) -> None:
    grant = await logged_in(checked, "lathe", b"right")
    registry.add("lathe", password=passwords.hash(b"newer"))
    assert not grant.refresh()
    assert await logged_in(checked, "lathe", b"right") is BAD_LOGIN
    assert (await logged_in(checked, "lathe", b"newer")).refresh()


def test_user_names_mean_nothing_where_the_listener_takes_none(registry: Registry) -> None:
    access = access_to(registry)
    assert asked(access, peer(), "lathe", username="lathe", password=b"right") is NOT_AUTHORIZED
    grant = asked(access, peer(anonymous=True), "x", username="lathe", password=b"right")
    assert isinstance(grant, DeviceGrant)
    assert grant.principal is None


# -- nobody in particular ---------------------------------------------------------------------------------------------


def test_without_credentials_nobody_gets_in_unless_the_listener_says_so(registry: Registry) -> None:
    access = access_to(registry)
    assert asked(access, peer(), "x") is NOT_AUTHORIZED
    assert asked(access, peer(passwords=True), "x") is NOT_AUTHORIZED
    grant = admitted(access, peer(anonymous=True), "x")
    assert grant.principal is None
    assert grant.publish("plant/1", retain=True)
    assert grant.subscribe("#")
    assert grant.receive("plant/1")


@pytest.mark.parametrize("topic", ["$aws/events/#", "$aws/things/#", "$aws/certificates/#", "$tidegate/frames/#"])
def test_nobody_in_particular_hears_what_is_between_the_server_and_its_devices(topic: str) -> None:
    grant = admitted(access_to(Registry(), reserved=SHADOWS), peer(anonymous=True), "x")
    one = topic.replace("#", "press/shadow/update")
    assert not grant.subscribe(topic)
    assert not grant.receive(one)
    assert not grant.publish(one, retain=False)
    assert not grant.publish(one, retain=True)


def test_the_anonymous_policy_can_be_replaced(registry: Registry) -> None:
    mine = allowing('{Effect: Allow, Action: [iot:Connect, iot:Receive], Resource: "*"}')
    grant = admitted(access_to(registry, {**BUILT_IN, "anonymous": mine}), peer(anonymous=True), "x")
    assert (grant.receive("a"), grant.publish("a", retain=False), grant.subscribe("a")) == (True, False, False)


# -- policies ---------------------------------------------------------------------------------------------------------


def test_by_default_a_device_has_ordinary_topics_and_its_own_shadows(registry: Registry) -> None:
    grant = admitted(access_to(registry, reserved=SHADOWS), peer("press"), "press")
    for topic, allowed in [
        ("plant/1", True), ("$aws/things/press/shadow/update", True), ("$aws/things/press/shadow/name/x/get", True),
        ("$aws/things/lathe/shadow/update", False), ("$aws/things/press/jobs/get", False), ("$other/x", False),
    ]:  # fmt: skip
        assert grant.publish(topic, retain=False) is allowed, topic
        assert grant.subscribe(topic) is allowed, topic
        assert grant.receive(topic) is allowed, topic
    assert grant.allows("iot:GetThingShadow", "thing/press/settings")
    assert not grant.allows("iot:GetThingShadow", "thing/lathe")


def test_by_default_everyone_reaches_rules_by_basic_ingest_but_not_with_topics_of_the_server(
    registry: Registry,
) -> None:
    access = access_to(registry, reserved=Reserved(served=("$aws/rules/",)))
    for grant in (admitted(access, peer("press"), "press"), admitted(access, peer(anonymous=True), "x")):
        for topic, allowed in [
            ("$aws/rules/Hot/plant/1", True), ("$aws/rules/Hot", True), ("$aws/rules/", True), ("$aws/rules", False),
            ("$aws/rules/Hot/$aws/events/presence/connected/press", False), ("$aws/rules/Hot/$SYS/x", False),
        ]:  # fmt: skip
            assert grant.publish(topic, retain=False) is allowed, topic
            assert grant.publish(topic, retain=True) is allowed, topic
        assert not grant.subscribe("$aws/rules/Hot/plant/1")
        assert not grant.receive("$aws/rules/Hot/plant/1")


def test_retaining_needs_both_permissions(registry: Registry) -> None:
    registry.add("press", policies=("mine",))
    connects = '{Effect: Allow, Action: iot:Connect, Resource: "*"}'
    publishes = '{Effect: Allow, Action: iot:Publish, Resource: ["topic/a", "topic/b"]}'
    retains = '{Effect: Allow, Action: iot:RetainPublish, Resource: ["topic/b", "topic/c"]}'
    mine = allowing(connects, publishes, retains)
    grant = admitted(access_to(registry, {"mine": mine}), peer("press"), "press")
    assert [topic for topic in "abc" if grant.publish(topic, retain=False)] == ["a", "b"]
    assert [topic for topic in "abc" if grant.publish(topic, retain=True)] == ["b"]


@pytest.mark.parametrize("policies", [("gone",), ("default", "gone")])
def test_a_policy_that_is_missing_lets_nothing_happen(registry: Registry, policies: tuple[str, ...]) -> None:
    registry.add("press", policies=policies)
    assert asked(access_to(registry), peer("press"), "press") is NOT_AUTHORIZED


def test_without_any_policy_nothing_is_allowed(registry: Registry) -> None:
    assert asked(access_to(registry, default_policies=()), peer("press"), "press") is NOT_AUTHORIZED


@pytest.mark.parametrize(
    "topic",
    ["$SYS", "$SYS/uptime", "$share/g/a", "$tidegate", "$tidegate/other/hall", "$tidegate/frames/press/x", "$aws",
     "$aws/rules/x", "$aws/certificates/create/json", "$aws/things"],
)  # fmt: skip
def test_no_policy_opens_the_topics_of_the_server(registry: Registry, topic: str) -> None:
    registry.add("press", policies=("mine",))
    mine = allowing('{Effect: Allow, Action: "*", Resource: "*"}')
    access = access_to(registry, {**BUILT_IN, "mine": mine}, reserved=SHADOWS)
    for who in (peer("press"), peer(anonymous=True)):
        grant = admitted(access, who, "press" if who.certificate else "x")
        assert not grant.publish(topic, retain=False)
        assert not grant.publish(topic, retain=True)
    assert admitted(access, peer("press"), "press").publish("$other/x", retain=False)


def test_nobody_in_particular_gets_an_identity_by_provisioning(registry: Registry) -> None:
    served = Reserved(served=("$aws/certificates/", "$aws/provisioning-templates/"))
    grant = admitted(access_to(registry, reserved=served), peer(anonymous=True), "x")
    assert not grant.publish("$aws/certificates/create/json", retain=False)
    assert not grant.publish("$aws/provisioning-templates/t/provision/json", retain=False)


# -- frames of an edge ------------------------------------------------------------------------------------------------

FRAMES = Reserved(frames_under=frames.TOPIC_ROOT)


def open_grant(access: OpenAccess, who: Peer) -> Grant:
    grant = asked(access, who, "somebody")
    assert not isinstance(grant, ConnAckReasonCode)
    assert grant is not None
    return grant


def at_cloud(kind: str, name: str | None) -> Grant:
    who = peer(name, issuer=PLANT, id_="p1", anonymous=name is None)
    if kind == "open":
        return open_grant(OpenAccess(frames.TOPIC_ROOT), who)
    return admitted(access_to(Registry(), reserved=FRAMES), who, f"tidegate-edge-{name or 'any'}")


@pytest.mark.parametrize("kind", ["open", "devices"])
@pytest.mark.parametrize(
    ("topic", "allowed"),
    [
        (frames.topic("hall", "telemetry"), True),
        (frames.topic("yard", "telemetry"), False),
        (frames.topic("hall-2", "telemetry"), False),
        (frames.topic("hal", "telemetry"), False),
        (frames.topic("HALL", "telemetry"), False),
        (frames.topic("", "direct"), False),
        (frames.topic("hall", ""), False),
        (frames.TOPIC_ROOT, False),
        (frames.TOPIC_ROOT.rstrip("/"), False),
    ],
)
def test_a_certificate_is_good_for_the_frames_of_that_edge_only(kind: str, topic: str, allowed: bool) -> None:
    assert at_cloud(kind, "hall").publish(topic, retain=False) is allowed
    assert not at_cloud(kind, "hall").publish(topic, retain=True)


@pytest.mark.parametrize("kind", ["open", "devices"])
def test_without_a_certificate_an_edge_is_believed_where_the_listener_lets_it_in(kind: str) -> None:
    assert at_cloud(kind, None).publish(frames.topic("hall", "telemetry"), retain=False)


def test_a_policy_that_denies_an_edge_its_frames_wins(registry: Registry) -> None:
    registry.add("press", policies=("mine",))
    own = frames.topic("press", "telemetry")
    for resource, allowed in [("*", False), ("topic/$tidegate/*", False), ("topic/plant/*", True)]:
        everything = '{Effect: Allow, Action: "*", Resource: "*"}'
        mine = allowing(everything, f'{{Effect: Deny, Action: iot:Publish, Resource: "{resource}"}}')
        grant = admitted(access_to(registry, {"mine": mine}, reserved=FRAMES), peer("press"), "tidegate-edge-press")
        assert grant.publish(own, retain=False) is allowed
        assert not grant.publish(own, retain=True)
        decision = explain(access_to(registry, {"mine": mine}, reserved=FRAMES), "press", "publish", own)
        assert decision.allowed is allowed
        assert (decision.statement is None) is allowed


def test_frames_are_for_the_cloud_only(registry: Registry) -> None:
    topic = frames.topic("press", "telemetry")
    assert not admitted(access_to(registry), peer("press"), "press").publish(topic, retain=False)
    assert not open_grant(OpenAccess(), peer("press")).publish(topic, retain=False)


def test_a_certificate_without_a_name_is_nobody() -> None:
    assert not at_cloud("open", "").publish(frames.topic("hall", "telemetry"), retain=False)


def test_with_open_access_everybody_may_do_everything_but_publish_for_the_server() -> None:
    for who in (peer(), peer("press")):
        grant = open_grant(OpenAccess(), who)
        assert grant.principal == ("press" if who.certificate else None)
        assert all(grant.publish(topic, retain=True) for topic in ("plant/1", "a$b/$c"))
        assert not any(grant.publish(topic, retain=False) for topic in ("$SYS/x", "$tidegate/x", "$aws/things/x"))
        assert grant.subscribe("#")
        assert grant.receive("$SYS/x")
        assert grant.refresh()


# -- changes under a live connection ----------------------------------------------------------------------------------


def test_a_revoked_certificate_ends_its_live_connection_for_good(registry: Registry) -> None:
    grant = admitted(access_to(registry, reserved=FRAMES), peer("press"), "press")
    assert grant.publish("plant/1", retain=False)
    registry.certify("c1", "press", Status.REVOKED)
    assert not grant.refresh()
    registry.certify("c1", "press", Status.ACTIVE)
    assert not grant.refresh()
    assert not grant.publish("plant/1", retain=False)
    assert not grant.publish(frames.topic("press", "telemetry"), retain=False)


def test_a_certificate_that_leaves_the_registry_is_not_the_operators_again(registry: Registry) -> None:
    registry.certify("p1", "press")
    access = access_to(registry)
    grant = admitted(access, peer("press", issuer=PLANT, id_="p1"), "press")
    registry.certificates = {}
    assert not grant.refresh()


def test_a_certificate_that_is_given_to_another_thing_ends_the_connection(registry: Registry) -> None:
    registry.add("lathe", policies=("anonymous",))
    registry.add("press", policies=("anonymous",))
    grant = admitted(access_to(registry), peer("press"), "x")
    registry.certify("c1", "lathe")
    assert not grant.refresh()


def test_a_revocation_list_that_is_loaded_ends_live_connections(registry: Registry) -> None:
    access = access_to(registry)
    grant = admitted(access, peer("lathe", issuer=PLANT, id_="p1"), "lathe")
    access.replace(BUILT_IN, lambda certificate: certificate.id == "p1")
    assert not grant.refresh()


def test_new_policies_apply_to_live_connections_and_to_what_was_asked_before(registry: Registry) -> None:
    access = access_to(registry)
    grant = admitted(access, peer("press"), "press")
    assert grant.publish("plant/1", retain=False)
    assert not grant.publish("$other/x", retain=False)
    everywhere = '{Effect: Allow, Action: "*", Resource: "*"}'
    access.replace({"default": allowing(everywhere, '{Effect: Deny, Action: iot:Publish, Resource: "topic/plant/*"}')})
    assert grant.publish("plant/1", retain=False)  # not before the broker asks
    assert grant.refresh()
    assert not grant.publish("plant/1", retain=False)
    assert grant.publish("$other/x", retain=False)
    access.replace({"default": allowing('{Effect: Deny, Action: iot:Connect, Resource: "*"}', everywhere)})
    assert not grant.refresh()


def test_new_attributes_and_policies_of_a_thing_apply(registry: Registry) -> None:
    here = '{Effect: Allow, Action: "*", Resource: ["client/*", "topic/${iot:Connection.Thing.Attributes[site]}/*"]}'
    access = access_to(registry, {**BUILT_IN, "mine": allowing(here)})
    registry.add("press", policies=("mine",), site="hall-1")
    grant = admitted(access, peer("press"), "press")
    assert grant.publish("hall-1/x", retain=False)
    registry.add("press", policies=("mine",), site="hall-2")
    assert grant.refresh()
    assert (grant.publish("hall-1/x", retain=False), grant.publish("hall-2/x", retain=False)) == (False, True)


def test_what_a_grant_remembers_is_bounded_and_stays_right(registry: Registry) -> None:
    grant = admitted(access_to(registry), peer("press"), "press")
    for number in range(CHECKS_MAX * 2 + 10):
        assert grant.publish(f"a/{number}", retain=False)
        assert not grant.publish(f"$b/{number}", retain=False)
    assert grant.publish("x" * 60_000, retain=False)
    held: list[dict[str, bool]] = [grant._published, grant._retained, grant._subscribed, grant._received]
    assert sum(map(len, held)) <= CHECKS_MAX
    assert grant.publish("a/0", retain=False)


# -- registration at first sight --------------------------------------------------------------------------------------


def test_an_unknown_certificate_may_be_registered_on_the_way(registry: Registry) -> None:
    waiting: list[Callable[[], None]] = []

    def register(who: Peer, done: Callable[[], None]) -> bool:
        waiting.append(done)
        return who.certificate is not None and who.certificate.issuer["commonName"] == "vendor"

    access = access_to(registry, register=register)
    answers: list[Grant | ConnAckReasonCode] = []
    for _ in range(2):
        access.connect(peer("new", issuer="vendor", id_="v1"), "new", ConnectPacket("new"), answers.append)
    assert answers == []
    waiting[0]()  # it was not registered, so the vendor's word alone is not enough
    assert answers == [NOT_AUTHORIZED]
    registry.add("new")
    registry.certify("v1", "new")
    waiting[1]()
    assert isinstance(answers[1], DeviceGrant)
    assert answers[1].principal == "new"
    assert admitted(access, peer("lathe", issuer=PLANT, id_="p1"), "lathe").principal == "lathe"
    waiting.clear()
    admitted(access, peer("press"), "press")
    assert asked(access, peer("press", id_="c2"), "press") is NOT_AUTHORIZED
    assert waiting == []  # neither for a registered one nor for our own


# -- what is told -----------------------------------------------------------------------------------------------------


def test_refusals_are_counted_each_time_and_logged_once(registry: Registry, caplog: pytest.LogCaptureFixture) -> None:
    counters = Counters()
    access = DeviceAccess(registry, BUILT_IN, counters, local_issuer=LOCAL)
    for _ in range(5):
        asked(access, peer("press", id_="c2"), "press")
        asked(access, peer(), "x")
    assert counters.value("access_refused_total", cause="certificate removed from the registry") == 5
    assert counters.value("access_refused_total") == 10
    assert [record.getMessage() for record in caplog.records] == ["client refused"] * 2
    for number in range(CAUSES_MAX + 10):
        asked(access, peer(), f"x{number}")
    assert len(access._logged) <= CAUSES_MAX


# -- explaining -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("verb", "topic", "allowed", "sid"),
    [
        ("connect", "", True, "ConnectUnderItsOwnName"),
        ("publish", "plant/1", True, "OrdinaryTopics"),
        ("retain", "plant/1", True, "OrdinaryTopics"),
        ("subscribe", "$aws/things/press/shadow/#", True, "ItsOwnShadows"),
        ("receive", "$SYS/x", False, None),
        ("publish", "$SYS/x", False, None),
    ],
)
def test_a_decision_names_the_statement(
    registry: Registry, verb: str, topic: str, allowed: bool, sid: str | None
) -> None:
    decision = explain(access_to(registry), "press", verb, topic)
    assert decision.allowed is allowed
    assert (decision.statement.sid if decision.statement else None) == sid


def test_a_decision_depends_on_the_client_identifier(registry: Registry) -> None:
    assert not explain(access_to(registry), "press", "connect", "", client_id="lathe").allowed
    assert explain(access_to(registry), "unregistered", "publish", "a").allowed
    with pytest.raises(Refused):
        explain(access_to(registry), "#", "publish", "a")
