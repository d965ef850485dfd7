"""[http]: what is accepted, and that nobody is told to listen where nobody could come in."""

from pathlib import Path

import pytest

from cloud import config as cloud_config
from core.config import HostPort
from core.errors import ConfigurationError
from core.http.config import HttpSection
from edge import config as edge_config

EDGE = """
[edge]
name = "press-hall"
data_dir = "data"
[[listeners]]
address = "127.0.0.1:1883"
anonymous = true
"""


def section(directory: Path, text: str) -> HttpSection:
    path = directory / "edge.toml"
    path.write_text(f"{EDGE}\n[http]\n{text}\n")
    http = edge_config.load(path).http
    assert http is not None
    return http


def test_both_sides_read_the_same_table(tmp_path: Path) -> None:
    http = 'address = "127.0.0.1:8080"\nanonymous = true\ncredentials = "keys"\ntokens = "tokens"'
    on_edge = section(tmp_path, http)
    (tmp_path / "cloud.toml").write_text(EDGE.replace("[edge]\nname", "[cloud]\n#") + f"\n[http]\n{http}\n")
    assert cloud_config.load(tmp_path / "cloud.toml").http == on_edge
    assert on_edge.address == HostPort("127.0.0.1", 8080)
    assert on_edge.credentials == tmp_path / "keys"


def test_without_the_table_there_is_no_address(tmp_path: Path) -> None:
    (tmp_path / "edge.toml").write_text(EDGE)
    assert edge_config.load(tmp_path / "edge.toml").http is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('address = "127.0.0.1:8080"', "nobody could connect"),
        ("anonymous = true", "address"),
        ('address = "0.0.0.0:8080"\ntokens = "tokens"', "in clear"),
        ('address = "127.0.0.1:8080"\nanonymous = true\ntoken = "x"', "unknown key"),
    ],
)
def test_what_could_not_work_is_refused_with_what_to_write(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        section(tmp_path, text)


@pytest.mark.parametrize(
    "text",
    [
        'address = "0.0.0.0:8080"\ncredentials = "keys"',
        'address = "0.0.0.0:8080"\ntls = {}',
        'address = "0.0.0.0:8080"\ntls = {}\ntokens = "tokens"',
        'address = "127.0.0.1:8080"\ntokens = "tokens"',
    ],
)
def test_any_way_to_come_in_is_enough(tmp_path: Path, text: str) -> None:
    assert not section(tmp_path, text).exposed


def test_anonymous_on_the_network_is_worth_a_warning(tmp_path: Path) -> None:
    assert section(tmp_path, 'address = "0.0.0.0:8080"\nanonymous = true').exposed
    assert not section(tmp_path, 'address = "127.0.0.1:8080"\nanonymous = true').exposed


def test_certificates_are_required_where_there_is_no_other_way_and_asked_for_where_there_is(tmp_path: Path) -> None:
    alone = section(tmp_path, 'address = "0.0.0.0:8080"\ntls = {}').listener
    beside = section(tmp_path, 'address = "0.0.0.0:8080"\ntls = {}\ncredentials = "keys"').listener
    assert alone is not None
    assert beside is not None
    assert not alone.passwords
    assert not alone.anonymous
    assert beside.passwords
