"""AWS Signature Version 4: whether a request was signed with one of our secret keys, in a header or in its query.

Follows "Create a signed AWS API request" of the IAM user guide. Region and service of the credential scope may be any:
keys are of this machine and open all of its API. Bodies signed in pieces (`STREAMING-…`) are refused, session tokens
have no meaning.

Invariants:
1. What is compared is compared in constant time, and the body is hashed unless the signature itself says
   `UNSIGNED-PAYLOAD`.
2. Every `x-amz-` header and the host are signed, and the path is one that has a single reading. So nobody on the way
   can give the request another meaning.
3. A signature is good for `SKEW_MS` before and after its date, or as long as a presigned request says, seven days at
   most. A machine whose own clock is not set cannot tell, and does not ask.
"""

import hmac
import re
from calendar import timegm
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from time import gmtime, strftime, strptime
from urllib.parse import quote, unquote

from core.http.messages import HttpError, Request
from core.message import CLOCK_PLAUSIBLE_MS

ALGORITHM = "AWS4-HMAC-SHA256"
SKEW_MS = 15 * 60_000  # what most AWS services allow
EXPIRES_MAX = 604_800  # seconds; seven days (AWS)
UNSIGNED = "UNSIGNED-PAYLOAD"
NOT_SIGNED_BY_ALL = frozenset(("x-amz-user-agent",))  # what SDKs in browsers add after they have signed

_FIELDS = re.compile(r"\s*(Credential|SignedHeaders|Signature)=([^,\s]+)\s*(?:,|$)")
_CREDENTIAL = re.compile(r"([\w+=,.@-]{1,128})/(\d{8})/([a-z0-9-]{1,64})/([a-z0-9-]{1,64})/aws4_request", re.ASCII)
_SIGNATURE = re.compile(r"[0-9a-f]{64}", re.ASCII)
_MOMENT = re.compile(r"\d{8}T\d{6}Z", re.ASCII)
_RUN = re.compile(r"\s+")


@dataclass(frozen=True, slots=True)
class Signature:
    """What a request says of its signature. `moment` is its X-Amz-Date, `expires` seconds when it is presigned."""

    key_id: str
    scope: str  # date/region/service/aws4_request
    signed_headers: tuple[str, ...]
    signature: str
    moment: str
    expires: int | None = None


def read(request: Request) -> Signature | None:
    """The signature of a request; None when there is none. Raises HttpError when it is no good."""
    authorization = request.headers.get("authorization", "")
    if authorization.startswith(ALGORITHM):
        fields = dict(_FIELDS.findall(authorization.removeprefix(ALGORITHM)))
        moment = request.headers.get("x-amz-date", "")
        return _signature(
            fields.get("Credential", ""), fields.get("SignedHeaders", ""), fields.get("Signature", ""), moment, None
        )
    if "X-Amz-Signature=" not in request.raw_query:
        return None
    query = request.query
    if query.get("X-Amz-Algorithm") != ALGORITHM:
        raise _incomplete(f"X-Amz-Algorithm must be {ALGORITHM}")
    expires = query.get("X-Amz-Expires", "")
    if not expires.isdecimal() or not expires.isascii() or not 0 < int(expires[:9]) <= EXPIRES_MAX:
        raise _incomplete(f"X-Amz-Expires must be 1 to {EXPIRES_MAX} seconds")
    return _signature(
        query.get("X-Amz-Credential", ""), query.get("X-Amz-SignedHeaders", ""), query.get("X-Amz-Signature", ""),
        query.get("X-Amz-Date", ""), int(expires),
    )  # fmt: skip


def _signature(credential: str, headers: str, signature: str, moment: str, expires: int | None) -> Signature:
    found = _CREDENTIAL.fullmatch(credential)
    if found is None or not headers or not _SIGNATURE.fullmatch(signature):
        raise _incomplete("Credential, SignedHeaders and Signature are needed, as Signature Version 4 has them")
    if not _MOMENT.fullmatch(moment):
        raise _incomplete("X-Amz-Date is needed, as 20060102T150405Z")
    if found[2] != moment[:8]:
        raise _invalid(f"the credential's date {found[2]} is not that of {moment}")
    return Signature(found[1], credential.partition("/")[2], tuple(headers.split(";")), signature, moment, expires)


def verify(request: Request, signature: Signature, secret: str, now_ms: int) -> None:
    """Raise HttpError unless `signature`, read from `request`, was made with `secret` and is good at `now_ms`."""
    _check_time(signature, now_ms)
    _check_coverage(request, signature)
    payload = _payload(request, signature)
    key = _signing_key(secret, signature.scope)
    # A query may be signed as it is sent, or in the one way to encode it.
    for query in _canonical_queries(request.raw_query):
        expected = _sign(request, signature, query, payload, key)
        if hmac.compare_digest(expected, signature.signature):
            return
    raise _invalid(
        "The request signature we calculated does not match the signature you provided. Check the secret access key "
        "and the signing method."
    )


def _check_time(signature: Signature, now_ms: int) -> None:
    if now_ms < CLOCK_PLAUSIBLE_MS:
        return
    try:
        signed_ms = timegm(strptime(signature.moment, "%Y%m%dT%H%M%SZ")) * 1_000
    except ValueError:
        raise _incomplete(f"{signature.moment} is no date") from None
    good_for = SKEW_MS if signature.expires is None else signature.expires * 1_000
    now = strftime("%Y%m%dT%H%M%SZ", gmtime(now_ms / 1_000))
    if now_ms > signed_ms + good_for:
        raise _invalid(f"Signature expired: {signature.moment} is too long before the time here, {now}")
    if now_ms < signed_ms - SKEW_MS:
        raise _invalid(f"Signature not yet current: {signature.moment} is still later than the time here, {now}")


def _check_coverage(request: Request, signature: Signature) -> None:
    """Everything that gives the request its meaning must be signed, and have one meaning."""
    signed = set(signature.signed_headers)
    missing = [name for name in signature.signed_headers if name not in request.headers]
    if missing:
        raise _invalid(f"signed headers that did not come: {', '.join(missing)[:200]}")
    open_headers = {name for name in request.headers if name.startswith("x-amz-")} - signed - NOT_SIGNED_BY_ALL
    if "host" not in signed or open_headers:
        raise _invalid(f"headers that must be signed and are not: {', '.join(sorted(open_headers)) or 'host'}")
    segments = request.raw_path.split("/")[1:]
    if "" in segments[:-1] or not {".", ".."}.isdisjoint(unquote(segment) for segment in segments):
        raise HttpError(400, "InvalidRequestException", "a signed path has no empty parts, '.' or '..'; encode slashes")


def _payload(request: Request, signature: Signature) -> str:
    """The hash of the body that the canonical request ends with; checked against what the request says it is."""
    actual = sha256(request.body).hexdigest()
    said = request.headers.get("x-amz-content-sha256")
    if said is None or said == actual or (said == UNSIGNED and "x-amz-content-sha256" in signature.signed_headers):
        return said or actual
    if said.startswith("STREAMING-"):
        raise HttpError(501, "NotImplemented", f"{said[:80]}: bodies that are signed in pieces are not taken")
    raise HttpError(400, "XAmzContentSHA256Mismatch", "x-amz-content-sha256 is not the hash of the body that came")


def _sign(request: Request, signature: Signature, query: str, payload: str, key: bytes) -> str:
    headers = "".join(f"{name}:{_RUN.sub(' ', request.headers[name]).strip()}\n" for name in signature.signed_headers)
    path = quote(request.raw_path or "/", safe="/~")
    lines = (request.method, path, query, headers, ";".join(signature.signed_headers), payload)
    canonical = sha256("\n".join(lines).encode("latin-1")).hexdigest()
    text = f"{ALGORITHM}\n{signature.moment}\n{signature.scope}\n{canonical}"
    return hmac.new(key, text.encode(), sha256).hexdigest()


def _canonical_queries(raw: str) -> list[str]:
    pairs = [pair.partition("=")[::2] for pair in raw.split("&") if pair]
    pairs = [pair for pair in pairs if pair[0] != "X-Amz-Signature"]
    encoded = [(_encode(name), _encode(value)) for name, value in pairs]
    spellings = [pairs] if encoded == pairs else [pairs, encoded]
    return ["&".join(f"{name}={value}" for name, value in sorted(spelling)) for spelling in spellings]


def _encode(text: str) -> str:
    return quote(unquote(text, errors="surrogateescape"), safe="-_.~", errors="surrogateescape")


@lru_cache(64)  # one for each key and day; workers and SDKs send many requests with the same
def _signing_key(secret: str, scope: str) -> bytes:
    key = f"AWS4{secret}".encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    return key


def _incomplete(message: str) -> HttpError:
    return HttpError(400, "IncompleteSignatureException", message)


def _invalid(message: str) -> HttpError:
    return HttpError(403, "InvalidSignatureException", message)
