"""The [devices] table says where identities are, the same at an edge and at a cloud."""

from pathlib import Path

import pytest

import cloud.config
import edge.config
from core.errors import ConfigurationError
from devices.config import DevicesSection, RegistrationAuthority

LISTENER = '\n[[listeners]]\naddress = "127.0.0.1:1883"\nanonymous = true\n'
EDGE = f'[edge]\nname = "hall"\ndata_dir = "data"{LISTENER}'


def load(directory: Path, text: str) -> DevicesSection:
    (directory / "edge.toml").write_text(EDGE + text)
    return edge.config.load(directory / "edge.toml").devices


def test_everything_has_a_default(tmp_path: Path) -> None:
    section = load(tmp_path, "")
    assert section.home(tmp_path / "data") == tmp_path / "data" / "devices"
    assert section.default_policies == ("default",)
    assert section.certificate_days is None
    (tmp_path / "cloud.toml").write_text(f'[cloud]\ndata_dir = "data"{LISTENER}')
    assert cloud.config.load(tmp_path / "cloud.toml").devices == section


def test_paths_start_at_the_file_they_stand_in(tmp_path: Path) -> None:
    section = load(
        tmp_path,
        """
        [devices]
        directory = "identities"
        policies = "policies"
        default_policies = ["press", "claim"]
        revocation_lists = ["company.crl"]
        provisioning = "templates"
        registration_authorities = [{ ca = "vendor.pem", template = "jitp" }, { ca = "other.pem" }]
        certificate_days = 365
        """,
    )
    assert section.home(tmp_path / "data") == tmp_path / "identities"
    assert (section.policies, section.provisioning) == (tmp_path / "policies", tmp_path / "templates")
    assert (section.revocation_lists, section.default_policies) == ((tmp_path / "company.crl",), ("press", "claim"))
    assert section.registration_authorities == (
        RegistrationAuthority(ca=tmp_path / "vendor.pem", template="jitp"),
        RegistrationAuthority(ca=tmp_path / "other.pem"),
    )
    assert section.certificate_days == 365


@pytest.mark.parametrize(
    ("line", "place"),
    [
        ("certificate_days = 0", "devices.certificate_days"),
        ("certificate_days = 36501", "devices.certificate_days"),
        ('certificate_days = "365"', "devices.certificate_days"),
        ('default_policies = ["../x"]', "devices.default_policies"),
        (f"default_policies = {[f'p{number}' for number in range(11)]}", "devices.default_policies"),
        ('registration_authorities = [{ template = "jitp" }]', "devices.registration_authorities[0].ca"),
        ('polices = "x"', "devices.polices: unknown key; did you mean 'policies'?"),
    ],
)
def test_a_fault_is_named_with_its_place(tmp_path: Path, line: str, place: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load(tmp_path, f"[devices]\n{line}\n")
    assert place in str(caught.value)
