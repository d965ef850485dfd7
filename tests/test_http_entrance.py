"""Who may come in over HTTP: keys, tokens, certificates, nobody; and no web page that was told no secret."""

import hashlib
import time
from dataclasses import replace

import pytest

from core.http.credentials import AccessKey, token_hash
from core.http.entrance import Caller, Entrance, Kind
from core.http.messages import HttpError, Request
from core.mqtt.access import Certificate
from tests.test_sigv4 import KEY_ID, SECRET, signed

TOKEN = "3f6b0c1e9d4a4b7e"
KEYS = {KEY_ID: AccessKey("operator", SECRET)}
TOKENS = {token_hash(TOKEN): "grafana"}
CERTIFICATE = Certificate(hashlib.sha256(b"press").hexdigest(), {"commonName": "press"}, {}, "1", b"")
PLAIN = Request("GET", "/", {"host": "127.0.0.1:8080"})
BEARER = replace(PLAIN, headers={**PLAIN.headers, "authorization": f"Bearer {TOKEN}"})
SIGNED = replace(signed(), peer="192.0.2.7")
DEVICE = replace(PLAIN, certificate=CERTIFICATE, encrypted=True)


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def admit(entrance: Entrance, request: Request) -> Caller:
    return entrance.admit(request, now_ms())


def refused(entrance: Entrance, request: Request) -> tuple[int, str]:
    with pytest.raises(HttpError) as caught:
        admit(entrance, request)
    return caught.value.status, caught.value.code


def test_a_key_a_token_and_a_certificate_each_say_who_somebody_is() -> None:
    entrance = Entrance(KEYS, TOKENS)
    assert admit(entrance, SIGNED) == Caller(Kind.KEY, "operator")
    assert admit(entrance, BEARER) == Caller(Kind.TOKEN, "grafana")
    assert admit(entrance, DEVICE) == Caller(Kind.CERTIFICATE, CERTIFICATE.id, CERTIFICATE)


def test_a_caller_is_the_principal_of_what_it_sends() -> None:
    origin = admit(Entrance(KEYS), SIGNED).origin(SIGNED)
    assert (origin.principal, origin.source_ip, origin.protocol) == ("operator", "192.0.2.7", "http")


def test_who_says_nothing_or_something_unknown_stays_outside() -> None:
    entrance = Entrance(KEYS, TOKENS)
    assert refused(entrance, PLAIN) == (403, "MissingAuthenticationTokenException")
    assert refused(Entrance({"AKIDOTHER": KEYS[KEY_ID]}), SIGNED) == (403, "UnrecognizedClientException")
    assert refused(Entrance({KEY_ID: AccessKey("operator", "x" * 40)}), SIGNED) == (403, "InvalidSignatureException")
    assert refused(Entrance(KEYS), BEARER) == (401, "InvalidToken")
    for other in (TOKEN[:-1], TOKEN + "0", "", TOKEN.upper()):
        request = replace(PLAIN, headers={**PLAIN.headers, "authorization": f"Bearer {other}"})
        assert refused(entrance, request) == (401, "InvalidToken")
    basic = replace(PLAIN, headers={**PLAIN.headers, "authorization": "Basic b3BlcmF0b3I6eA=="})
    assert refused(entrance, basic) == (403, "MissingAuthenticationTokenException")


def test_where_anybody_may_come_in_unnamed_sdks_may_sign_with_what_they_like() -> None:
    open_to_all, with_keys = Entrance(anonymous=True), Entrance(KEYS, TOKENS, anonymous=True)
    local = replace(SIGNED, headers={**SIGNED.headers, "host": "edge:8080"})
    assert admit(open_to_all, local).kind is Kind.ANONYMOUS
    assert admit(open_to_all, BEARER).kind is Kind.ANONYMOUS
    assert admit(open_to_all, PLAIN).kind is Kind.ANONYMOUS
    assert admit(with_keys, SIGNED).name == "operator"
    assert admit(with_keys, BEARER).name == "grafana"


def test_a_bad_signature_of_a_known_key_is_refused_even_where_anybody_may_come_in() -> None:
    assert refused(Entrance(KEYS, anonymous=True), replace(SIGNED, body=b"x"))[1] == "InvalidSignatureException"


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "http://127.0.0.1:8080"},
        {"origin": "null"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-origin"},
        {"host": "evil.example"},
        {"host": "evil.example:8080"},
        {"host": "127.0.0.1.evil.example"},
        {"host": "[::1"},
    ],
)
def test_a_web_page_cannot_use_that_anybody_may_come_in(headers: dict[str, str]) -> None:
    request = replace(PLAIN, headers={**PLAIN.headers, **headers})
    assert refused(Entrance(anonymous=True), request) == (403, "AccessDeniedException")


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.0.0.1:8080", "[::1]:8080", "192.0.2.7:80", "localhost:8080", "edge", "Edge.local:8080"]
)
def test_programs_may_use_an_address_or_a_local_name(host: str) -> None:
    request = replace(PLAIN, headers={"host": host, "sec-fetch-site": "none"})
    assert admit(Entrance(anonymous=True), request).kind is Kind.ANONYMOUS
