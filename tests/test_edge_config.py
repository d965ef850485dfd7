"""edge.toml: what is accepted, what it means, and every fault at once with its place."""

from pathlib import Path

import pytest

from core.config import HostPort, RulesSection
from core.errors import ConfigurationError
from edge.config import LANE_BYTES_MIN, LANES_MAX, EdgeConfig, load
from edge.lanes import Lane, Order, WhenFull

BASE = """
[edge]
name = "press-hall"
data_dir = "data"

[[listeners]]
address = "127.0.0.1:1883"
anonymous = true
"""
UPLINK = BASE + '[uplink]\nurl = "mqtts://cloud.example.com"\n'


def parse(directory: Path, text: str) -> EdgeConfig:
    path = directory / "edge.toml"
    path.write_text(text)
    return load(path)


def problems(directory: Path, text: str) -> list[str]:
    with pytest.raises(ConfigurationError) as caught:
        parse(directory, text)
    return caught.value.problems


def test_the_example_of_the_manual_means_what_it_says(tmp_path: Path) -> None:
    config = parse(
        tmp_path,
        """
        [edge]
        name = "press-hall"
        data_dir = "/var/lib/tidegate-edge"

        [[listeners]]
        address = "127.0.0.1:1883"
        anonymous = true             # only where a listener says so

        [[listeners]]
        address = "0.0.0.0:8883"
        tls = { certificate = "edge.pem", key = "edge.key", client_ca = "ca.pem" }

        [rules]
        directory = "/etc/tidegate/rules"

        [uplink]
        url = "mqtts://cloud.example.com:8883"

        [[uplink.lanes]]
        name = "alarms"
        topics = ["plant/+/+/alarm"]
        priority = 0

        [[uplink.lanes]]
        name = "telemetry"
        topics = ["plant/#"]
        max_bytes = "2GB"
        max_age = "7d"
        order = "newest-first"
        when_full = "drop-oldest"
        """,
    )
    assert config.edge.name == "press-hall"
    assert [listener.address for listener in config.listeners] == [("127.0.0.1", 1883), ("0.0.0.0", 8883)]
    assert config.listeners[1].tls is not None
    assert config.listeners[1].tls.certificate == tmp_path / "edge.pem"
    assert config.rules is not None
    assert config.uplink is not None
    assert config.uplink.address == HostPort("cloud.example.com", 8883)
    assert config.uplink.secure
    week = 7 * 86_400.0
    assert [section.lane() for section in config.uplink.lanes] == [
        Lane("alarms", ("plant/+/+/alarm",), 0, Order.OLDEST_FIRST, 1 << 30, None, WhenFull.REJECT),
        Lane("telemetry", ("plant/#",), 1, Order.NEWEST_FIRST, 2 * 10**9, week, WhenFull.DROP_OLDEST),
    ]


def test_without_an_uplink_nothing_is_kept(tmp_path: Path) -> None:
    config = parse(tmp_path, BASE)
    assert config.uplink is None
    assert config.rules is None
    assert config.edge.data_dir == tmp_path / "data"


def test_without_lanes_one_takes_everything(tmp_path: Path) -> None:
    uplink = parse(tmp_path, UPLINK).uplink
    assert uplink is not None
    assert [(lane.name, lane.topics, lane.when_full) for lane in uplink.lanes] == [("all", ("#",), WhenFull.REJECT)]
    assert uplink.linger == 1.0


@pytest.mark.parametrize(
    ("url", "host", "port", "secure"),
    [
        ("mqtt://cloud", "cloud", 1883, False),
        ("mqtts://cloud", "cloud", 8883, True),
        ("mqtts://cloud:443/", "cloud", 443, True),
        ("mqtt://[::1]:1884", "::1", 1884, False),
        ("MQTTS://cloud", "cloud", 8883, True),  # never in the clear because somebody shouts
    ],
)
def test_urls(tmp_path: Path, url: str, host: str, port: int, secure: bool) -> None:
    uplink = parse(tmp_path, BASE + f'[uplink]\nurl = "{url}"\n').uplink
    assert uplink is not None
    assert (uplink.address, uplink.secure) == ((host, port), secure)


@pytest.mark.parametrize(
    "url",
    [
        "", "cloud:8883", "http://cloud", "mqtt://", "mqtt://cloud/topic", "mqtt://cloud:0", "mqtt://cloud:65536",
        "mqtt://cloud:many", "mqtt://[::1", "mqtts://cloud?clean=1", "mqtts://cloud#x", "mqtts://the cloud",
    ],
)  # fmt: skip
def test_urls_that_lead_nowhere_are_refused(tmp_path: Path, url: str) -> None:
    [problem] = problems(tmp_path, BASE + f'[uplink]\nurl = "{url}"\n')
    assert problem.startswith("uplink.url: ")


def test_a_password_in_a_url_is_refused_and_not_repeated(tmp_path: Path) -> None:
    [problem] = problems(tmp_path, BASE + '[uplink]\nurl = "mqtts://edge:geheim@cloud"\n')
    assert problem.startswith("uplink.url: a url holds no user name or password")
    assert "geheim" not in problem


def test_every_fault_is_reported_at_once_with_its_place(tmp_path: Path) -> None:
    found = problems(
        tmp_path,
        """
        [edge]
        nam = "press-hall"
        data_dir = "data"

        [[listeners]]
        address = "127.0.0.1"
        anonymous = true

        [[listeners]]
        address = "0.0.0.0:8883"

        [rules]

        [uplink]
        url = "http://cloud"
        linger = "soon"

        [[uplink.lanes]]
        name = "a b"
        topics = ["plant/#/x", "$share/group/plant"]
        priority = 10

        [[uplink.lanes]]
        name = "small"
        topics = []
        max_bytes = "1MB"
        order = "random"
        when_full = "explode"
        """,
    )
    expected = {
        "edge.name",
        "edge.nam",
        "listeners[0].address",
        "listeners[1]",
        "rules.directory",
        "uplink.url",
        "uplink.linger",
        "uplink.lanes[0].name",
        "uplink.lanes[0].topics[0]",
        "uplink.lanes[0].topics[1]",
        "uplink.lanes[0].priority",
        "uplink.lanes[1].topics",
        "uplink.lanes[1].max_bytes",
        "uplink.lanes[1].order",
        "uplink.lanes[1].when_full",
    }
    assert expected <= {problem.partition(":")[0] for problem in found}
    assert "edge.nam: unknown key; did you mean 'name'?" in found


def test_an_empty_file_lacks_its_sections(tmp_path: Path) -> None:
    assert problems(tmp_path, "") == ["edge: is missing", "listeners: is missing"]


def test_an_edge_without_a_listener_is_refused(tmp_path: Path) -> None:
    [problem] = problems(tmp_path, 'listeners = []\n[edge]\nname = "a"\ndata_dir = "d"\n')
    assert problem.startswith("listeners: ")


def lanes(*names: str, more: str = "") -> str:
    return UPLINK + "".join(f'[[uplink.lanes]]\nname = "{name}"\ntopics = ["#"]\n{more}\n' for name in names)


def test_two_lanes_with_one_name_are_refused(tmp_path: Path) -> None:
    assert problems(tmp_path, lanes("a", "b", "a", "c", "b")) == [
        "uplink: lanes need names of their own; used twice: a, b"
    ]


def test_there_are_not_too_many_lanes(tmp_path: Path) -> None:
    assert parse(tmp_path, lanes(*[f"lane-{n}" for n in range(LANES_MAX)])).uplink is not None
    [problem] = problems(tmp_path, lanes(*[f"lane-{n}" for n in range(LANES_MAX + 1)]))
    assert problem.startswith("uplink.lanes: ")


def test_a_lane_has_room_for_a_few_chunks(tmp_path: Path) -> None:
    assert parse(tmp_path, lanes("a", more=f"max_bytes = {LANE_BYTES_MIN}")).uplink is not None
    [problem] = problems(tmp_path, lanes("a", more=f"max_bytes = {LANE_BYTES_MIN - 1}"))
    assert problem == "uplink.lanes[0].max_bytes: 1,048,575 bytes is less than a lane needs (1,048,576)"


def test_tls_without_a_url_that_says_so_is_a_contradiction(tmp_path: Path) -> None:
    [problem] = problems(tmp_path, BASE + '[uplink]\nurl = "mqtt://cloud"\ntls = { ca = "ca.pem" }\n')
    assert problem == "uplink: tls is set, but the url says mqtt://; write mqtts://"


def test_a_certificate_needs_its_key(tmp_path: Path) -> None:
    [problem] = problems(tmp_path, UPLINK + 'tls = { certificate = "edge.pem" }\n')
    assert problem.startswith("uplink.tls: certificate and key belong together")


@pytest.mark.parametrize("section", ["shadows", "jobs"])
def test_sections_that_do_not_exist_yet_are_not_ignored(tmp_path: Path, section: str) -> None:
    [problem] = problems(tmp_path, BASE + f"[{section}]\n")
    assert problem.startswith(f"{section}: unknown key")


def test_rules_have_an_account_and_perhaps_secrets(tmp_path: Path) -> None:
    text = BASE + '[rules]\ndirectory = "rules"\n'
    bare = parse(tmp_path, text).rules
    assert bare == RulesSection(directory=tmp_path / "rules", account="000000000000", secrets=None)
    full = parse(tmp_path, text + 'account = "123456789012"\nsecrets = "secrets"\n').rules
    assert full == RulesSection(directory=tmp_path / "rules", account="123456789012", secrets=tmp_path / "secrets")
    for account in ("12345678901", "1234567890123", "12345678901x", ""):
        [problem] = problems(tmp_path, text + f'account = "{account}"\n')
        assert problem.startswith("rules.account: ")
