"""A destination is understood in every form that AWS and people write; what it is given is in test_asynchronous."""

import pytest

from core.errors import TidegateError
from functions.destinations import Kind, Undeliverable, bounded, parse


@pytest.mark.parametrize(
    ("text", "kind", "name"),
    [
        ("arn:aws:lambda:eu-west-1:123456789012:function:f", Kind.FUNCTION, "f"),
        ("arn:aws:lambda:eu-west-1:123456789012:function:f:live", Kind.FUNCTION, "f:live"),
        ("f", Kind.FUNCTION, "f"),
        ("f:7", Kind.FUNCTION, "f:7"),
        ("arn:aws:sqs:eu-west-1:123456789012:failed-events", Kind.QUEUE, "failed-events"),
        ("https://sqs.eu-west-1.amazonaws.com/123456789012/failed", Kind.QUEUE, "failed"),
        ("http://127.0.0.1:9324/queue/failed", Kind.QUEUE, "failed"),
        ("arn:aws:sns:eu-west-1:123456789012:alerts", Kind.SNS, "alerts"),
        ("arn:aws:events:eu-west-1:123456789012:event-bus/default", Kind.BUS, "event-bus/default"),
        ("arn:aws:iot:eu-west-1:123456789012:topic/plant/a:b/alarm", Kind.TOPIC, "plant/a:b/alarm"),
    ],
)
def test_a_destination_is_understood(text: str, kind: Kind, name: str) -> None:
    found = parse(text)
    assert (found.kind, found.name, found.arn) == (kind, name, text)


@pytest.mark.parametrize(
    "text",
    ["", "arn:aws:s3:::bucket", "arn:aws:iot:eu-west-1:1:topic/", "arn:aws:iot:eu-west-1:1:rule/a", "a b",
     "arn:aws:sqs:eu-west-1:123456789012:", "arn:aws:lambda:eu-west-1:123456789012:layer:x", "https://"],
)  # fmt: skip
def test_what_is_no_destination_is_refused_in_words(text: str) -> None:
    with pytest.raises(TidegateError, match=r"\w{5}"):
        parse(text)


def test_a_document_is_taken_whole_or_not_at_all() -> None:
    assert bounded(b"12345", 5) == b"12345"
    with pytest.raises(Undeliverable, match="6 bytes; it takes 5"):
        bounded(b"123456", 5)
