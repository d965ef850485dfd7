"""A box knows by which names it can be reached without asking anybody."""

import ipaddress
import socket

import pytest

from devices.addresses import own_names


def test_a_box_is_reached_by_its_name_and_from_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "press-hall.example")
    names = own_names()
    assert names[:2] == ["press-hall.example", "press-hall.local"]
    assert {"localhost", "127.0.0.1", "::1"} < set(names)
    assert len(names) == len(set(names))


def test_every_address_found_is_one_of_this_machine() -> None:
    addresses = [name for name in own_names() if name[0].isdigit() or ":" in name]
    assert {"127.0.0.1", "::1"} <= set(addresses)
    for text in addresses:
        if (address := ipaddress.ip_address(text)).version == 4:
            with socket.socket(socket.AF_INET) as bound:
                bound.bind((str(address), 0))


def test_the_resolver_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: object) -> None:
        raise AssertionError

    for name in ("getaddrinfo", "gethostbyname", "gethostbyname_ex", "getfqdn", "gethostbyaddr"):
        monkeypatch.setattr(socket, name, unreachable)
    assert "127.0.0.1" in own_names()


@pytest.mark.parametrize("host", ["", "a b", "x" * 64, "pres\u00df", "a\nb", "(none)"])
def test_a_host_name_that_no_certificate_can_hold_is_left_out(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: host)
    assert own_names()[0] == "localhost"
