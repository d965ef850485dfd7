"""Signature Version 4 against AWS's own signer, botocore: what it signs is good, and what is changed after is not."""

import time
from collections.abc import Callable
from dataclasses import replace
from urllib.parse import urlsplit

import pytest
from botocore.auth import S3SigV4Auth, SigV4Auth, SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from core.http import sigv4
from core.http.messages import HttpError, Request
from core.message import CLOCK_PLAUSIBLE_MS

KEY_ID, SECRET = "AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
HOST = "http://edge.local:8080"
MINUTE = 60_000

PATHS = [
    "/", "", "/topics/a", "/topics/plant%2Fline%201%2Fpress", "/topics/%C3%A9%E2%82%AC", "/topics/a%2Bb", "/topics/a+b",
    "/topics/a~b-c_d.e", "/topics/a%25b", "/topics/%24aws%2Frules%2Fx", "/topics/a=b&c;d,e", "/topics/!*'()@:",
    "/2015-03-31/functions/arn%3Aaws%3Alambda%3Aeu-west-1%3A000000000000%3Afunction%3Apress/invocations",
    "/2015-03-31/functions/", "/topics/%2F%2Fa%2F", "/topics/a%2fb", "/topics/a%20", "/x/..%2Fy", "/topics/...",
]  # fmt: skip
QUERIES = [
    "", "qos=1", "retain=true&qos=1", "b=2&a=1&a=0", "a", "a=", "a=%20b&c=%2B", "a=b+c", "a=%2f&b=%2F", "x=%C3%A9",
    "a=b=c", "name=A~B-C_D.E", "Z=1&a=2&A=3", "a=1&a", "contentType=application%2Fjson%3B%20charset%3Dutf-8", "a=*'()",
]  # fmt: skip


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def signed(
    method: str = "POST",
    path: str = "/topics/a",
    query: str = "",
    body: bytes = b"payload",
    headers: dict[str, str] | None = None,
    auth: Callable[[AWSRequest], None] | None = None,
) -> Request:
    """A request as botocore signs it."""
    url = f"{HOST}{path}" + (f"?{query}" if query else "")
    aws = AWSRequest(method=method, url=url, data=body, headers=headers or {})
    aws.context["payload_signing_enabled"] = True
    if auth is None:
        SigV4Auth(Credentials(KEY_ID, SECRET), "iotdata", "eu-west-1").add_auth(aws)
    else:
        auth(aws)
    parts = urlsplit(aws.url)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    sent = {name.lower(): str(value) for name, value in aws.headers.items()}
    return Request(method, target, {"host": parts.netloc, **sent}, body)


def presigned(expires: int = 60, **arguments: str) -> Request:
    auth = SigV4QueryAuth(Credentials(KEY_ID, SECRET), "iotdata", "eu-west-1", expires=expires)
    return signed("GET", body=b"", auth=auth.add_auth, **arguments)


def check(request: Request, at: int | None = None, secret: str = SECRET) -> None:
    signature = sigv4.read(request)
    assert signature is not None
    assert signature.key_id == KEY_ID
    sigv4.verify(request, signature, secret, now_ms() if at is None else at)


def refusal(request: Request, at: int | None = None, secret: str = SECRET) -> HttpError:
    with pytest.raises(HttpError) as caught:
        check(request, at, secret)
    return caught.value


# -- what botocore signs ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", PATHS)
def test_any_path_is_understood_as_the_signer_does(path: str) -> None:
    check(signed(path=path))
    check(presigned(path=path))


@pytest.mark.parametrize("query", QUERIES)
def test_any_query_is_understood_as_the_signer_does(query: str) -> None:
    check(signed(query=query))
    check(presigned(query=query))


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "DELETE"])
@pytest.mark.parametrize("body", [b"", b"{}", bytes(range(256)), b"x" * 1_000_000])
def test_any_method_and_body_is_good(method: str, body: bytes) -> None:
    check(signed(method, body=body))


@pytest.mark.parametrize("value", ["plain", "  much   space\tinside  ", "", 'quoted "a  b"', "a,b, c", "=?;"])
def test_headers_are_compared_without_needless_space(value: str) -> None:
    check(signed(headers={"X-Amz-Something": value, "Content-Type": "application/json"}))


def test_a_query_that_was_signed_in_the_canonical_spelling_and_sent_in_another_is_good() -> None:
    request = signed(query="a=%2F%C3%A9%20b")
    check(replace(request, target=request.target.replace("%2F%C3%A9%20b", "%2f%c3%a9%20b")))


def test_a_body_that_was_left_unsigned_on_purpose_is_good() -> None:
    def unsigned(aws: AWSRequest) -> None:
        aws.url = aws.url.replace("http://", "https://")
        aws.context["payload_signing_enabled"] = False
        SigV4Auth(Credentials(KEY_ID, SECRET), "iotdata", "eu-west-1").add_auth(aws)

    request = signed(auth=unsigned)
    assert request.headers["x-amz-content-sha256"] == sigv4.UNSIGNED
    check(replace(request, body=b"another"))


def test_a_body_whose_hash_is_a_header_is_good() -> None:
    def s3(aws: AWSRequest) -> None:
        S3SigV4Auth(Credentials(KEY_ID, SECRET), "s3", "eu-west-1").add_auth(aws)

    check(signed(auth=s3, path="/bucket/key"))


def test_a_request_without_a_signature_has_none() -> None:
    assert sigv4.read(Request("GET", "/", {"host": "x"})) is None
    assert sigv4.read(Request("GET", "/?a=1", {"host": "x", "authorization": "Bearer abc"})) is None


# -- what was changed after -------------------------------------------------------------------------------------------


def with_header(name: str, value: str) -> Callable[[Request], Request]:
    return lambda request: replace(request, headers={**request.headers, name: value})


def with_text(old: str, new: str) -> Callable[[Request], Request]:
    """The Authorization header with some of its text replaced."""

    def change(request: Request) -> Request:
        assert old in request.headers["authorization"]
        return with_header("authorization", request.headers["authorization"].replace(old, new))(request)

    return change


def another_second(moment: str) -> str:
    """A time that differs in its last digit."""
    return f"{moment[:-2]}{'2' if moment[-2] == '1' else '1'}Z"


CHANGES: dict[str, tuple[Callable[[Request], Request], int]] = {
    "another method": (lambda r: replace(r, method="PUT"), 403),
    "another path": (lambda r: replace(r, target="/topics/b?qos=1"), 403),
    "a longer path": (lambda r: replace(r, target="/topics/a/b?qos=1"), 403),
    "a path encoded once more": (lambda r: replace(r, target="/topics/%61?qos=1"), 403),
    "another query": (lambda r: replace(r, target="/topics/a?qos=0"), 403),
    "a longer query": (lambda r: replace(r, target="/topics/a?qos=1&retain=true"), 403),
    "no query": (lambda r: replace(r, target="/topics/a"), 403),
    "another body": (lambda r: replace(r, body=b"payloae"), 403),
    "no body": (lambda r: replace(r, body=b""), 403),
    "another host": (with_header("host", "evil.example"), 403),
    "another signed header": (with_header("x-amz-signed", "2"), 403),
    "one more header of AWS": (with_header("x-amz-invocation-type", "Event"), 403),
    "another time": (lambda r: with_header("x-amz-date", another_second(r.headers["x-amz-date"]))(r), 403),
    "another day": (with_header("x-amz-date", "20150830T123600Z"), 403),
    "no time": (with_header("x-amz-date", ""), 400),
    "a time that is none": (with_header("x-amz-date", "20261399T000000Z"), 403),
    "another region": (with_text("eu-west-1", "us-east-1"), 403),
    "another service": (with_text("iotdata", "lambda"), 403),
    "no end of the scope": (with_text("/aws4_request", ""), 400),
    "host not signed": (with_text("host;", ""), 403),
    "a header signed that did not come": (with_text("host;", "host;x-absent;"), 403),
    "no signature": (with_text("Signature=", "Signatur="), 400),
    "a signature of nothing": (lambda r: with_header("authorization", sigv4.ALGORITHM)(r), 400),
    "the hash of another body": (with_header("x-amz-content-sha256", "0" * 64), 403),
    "an unsigned body": (with_header("x-amz-content-sha256", sigv4.UNSIGNED), 403),
    "a path with empty parts": (lambda r: replace(r, target="/topics//a?qos=1"), 400),
    "a path with dots": (lambda r: replace(r, target="/x/../topics/a?qos=1"), 400),
    "a path with hidden dots": (lambda r: replace(r, target="/x/%2e%2e/topics/a?qos=1"), 400),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_request_that_was_changed_on_the_way_is_refused(change: str) -> None:
    request = signed(query="qos=1", headers={"X-Amz-Signed": "1"})
    check(request)
    changed, status = CHANGES[change]
    assert refusal(changed(request)).status == status


def test_every_other_signature_and_every_other_secret_is_refused() -> None:
    request = signed()
    signature = request.headers["authorization"][-64:]
    for place in range(64):
        digit = "0" if signature[place] != "0" else "1"
        other = with_text(signature, signature[:place] + digit + signature[place + 1 :])(request)
        assert refusal(other).code == "InvalidSignatureException"
    assert refusal(request, secret=SECRET + "x").code == "InvalidSignatureException"


def test_a_presigned_request_that_was_changed_is_refused() -> None:
    request = presigned(query="qos=1")
    check(request)
    for old, new, status in [
        ("qos=1", "qos=0", 403), ("X-Amz-Expires=60", "X-Amz-Expires=600", 403), ("X-Amz-Expires=60", "x", 400),
        ("X-Amz-Expires=60", "X-Amz-Expires=604801", 400), ("X-Amz-Expires=60", "X-Amz-Expires=0", 400),
        ("X-Amz-Algorithm=AWS4-HMAC-SHA256", "X-Amz-Algorithm=none", 400), ("/topics/a", "/topics/b", 403),
        ("SignedHeaders=host", "SignedHeaders=", 400),
    ]:  # fmt: skip
        assert old in request.target
        assert refusal(replace(request, target=request.target.replace(old, new))).status == status


def test_a_body_that_is_signed_in_pieces_is_refused_by_name() -> None:
    streaming = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"
    refused = refusal(signed(headers={"X-Amz-Content-SHA256": streaming}))
    assert (refused.status, streaming in str(refused)) == (501, True)


# -- time -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("minutes", "good"), [(-16, False), (-14, True), (0, True), (14, True), (16, False)])
def test_a_signature_is_good_for_a_quarter_of_an_hour_around_its_date(minutes: int, good: bool) -> None:
    request, at = signed(), now_ms() + minutes * MINUTE
    if good:
        check(request, at)
    else:
        refused = refusal(request, at)
        assert refused.code == "InvalidSignatureException"
        assert "here" in str(refused)


@pytest.mark.parametrize(("minutes", "good"), [(-16, False), (0, True), (59, True), (61, False)])
def test_a_presigned_request_is_good_for_as_long_as_it_says(minutes: int, good: bool) -> None:
    request, at = presigned(expires=3_600), now_ms() + minutes * MINUTE
    if good:
        check(request, at)
    else:
        refusal(request, at)


def test_a_machine_whose_clock_is_not_set_checks_everything_but_the_time() -> None:
    request = signed()
    check(request, CLOCK_PLAUSIBLE_MS - 1)
    check(request, 0)
    assert refusal(replace(request, body=b"another"), 0).status == 403
    assert refusal(request, CLOCK_PLAUSIBLE_MS).status == 403
