"""Shadow documents: what AWS documents of merging, versions, metadata and delta, case by case."""

import json
from typing import Any

import pytest

from shadow import document, requests
from shadow.document import Shadow
from shadow.errors import ShadowError

NOW = 1_700_000_000


def updated(shadow: Shadow, body: Any, now: int = NOW) -> tuple[Shadow, document.Told]:
    return document.update(shadow, requests.read(json.dumps(body).encode()), now)


def after(*states: Any) -> Shadow:
    shadow = Shadow()
    for state in states:
        shadow, _ = updated(shadow, {"state": state})
    return shadow


MERGES = [
    ([{"reported": {"a": 1}}, {"reported": {"b": 2}}], {"reported": {"a": 1, "b": 2}}),
    ([{"reported": {"a": {"b": 1, "c": 2}}}, {"reported": {"a": {"b": 3}}}], {"reported": {"a": {"b": 3, "c": 2}}}),
    ([{"reported": {"a": [1, 2, 3]}}, {"reported": {"a": [4]}}], {"reported": {"a": [4]}}),
    ([{"reported": {"a": 1, "b": 2}}, {"reported": {"a": None}}], {"reported": {"b": 2}}),
    ([{"reported": {"a": 1}}, {"reported": {"a": None}}], {}),
    ([{"reported": {"a": 1}}, {"reported": {"b": None}}], {"reported": {"a": 1}}),
    ([{"desired": {"a": 1}, "reported": {"a": 2}}, {"desired": None}], {"reported": {"a": 2}}),
    ([{"desired": {"a": 1}, "reported": {"a": 2}}, None], {}),
    ([{"desired": {"a": 1, "d": {}}}], {"desired": {"a": 1, "d": {}}}),
    ([{"desired": {"c": 3}}, {"desired": {"c": {}}}], {"desired": {"c": {}}}),
    ([{"desired": {"c": {"x": 1}}}, {"desired": {"c": 5}}], {"desired": {"c": 5}}),
    ([{"desired": {"a": 1}}, {"desired": {}}], {"desired": {"a": 1}}),
    ([{"desired": {"a": 1}}, {}], {"desired": {"a": 1}}),
]


@pytest.mark.parametrize(("states", "expected"), MERGES)
def test_updates_merge_as_aws_merges_them(states: list[Any], expected: Any) -> None:
    assert after(*states).state == expected


def test_each_accepted_update_counts_one_version_also_when_it_changes_nothing() -> None:
    shadow = after({"reported": {"a": 1}}, {"reported": {"a": 1}}, {}, None)
    assert shadow.version == 4


def test_a_version_goes_on_after_a_delete() -> None:
    shadow = after({"reported": {"a": 1}}, {"reported": {"a": 2}})
    gone, told = document.delete(shadow, None, NOW)
    assert not gone.exists
    assert told.accepted == {"version": 2, "timestamp": NOW}
    again, _ = updated(gone, {"state": {"reported": {"a": 1}}})
    assert again.version > gone.version > 2
    assert again.state == {"reported": {"a": 1}}


def test_accepted_says_only_what_the_request_said() -> None:
    shadow = after({"reported": {"a": 1, "b": 2}})
    _, told = updated(shadow, {"state": {"reported": {"a": 3, "b": None}}, "clientToken": "t"})
    assert told.accepted == {
        "state": {"reported": {"a": 3, "b": None}},
        "metadata": {"reported": {"a": {"timestamp": NOW}, "b": {"timestamp": NOW}}},
        "version": 2, "timestamp": NOW, "clientToken": "t",
    }  # fmt: skip


def test_an_emptied_state_is_told_as_aws_tells_it() -> None:
    shadow, told = updated(after({"desired": {"a": 1}}), {"state": None})
    assert told.accepted == {"state": None, "metadata": {"timestamp": NOW}, "version": 2, "timestamp": NOW}
    found = document.get(shadow, None, NOW).accepted
    assert (found["state"], found["metadata"]) == ({}, {})


DELTAS: list[tuple[Any, Any]] = [
    ({"desired": {"a": 1}}, {"a": 1}),
    ({"desired": {"a": 1}, "reported": {"a": 1}}, None),
    ({"desired": {"a": 1}, "reported": {"a": 1.0, "z": 5}}, None),
    ({"desired": {"a": True}, "reported": {"a": 1}}, {"a": True}),
    ({"desired": {"a": {"b": 1, "c": 2}}, "reported": {"a": {"b": 1, "c": 3}}}, {"a": {"c": 2}}),
    ({"desired": {"a": [1, 2]}, "reported": {"a": [2, 1]}}, {"a": [1, 2]}),
    ({"desired": {"a": {"b": 1}}, "reported": {"a": 1}}, {"a": {"b": 1}}),
    ({"desired": {"c": {}}, "reported": {"c": {"x": 1}}}, None),
    ({"reported": {"a": 1}}, None),
]


@pytest.mark.parametrize(("state", "expected"), DELTAS)
def test_delta_is_what_desired_has_and_reported_has_not(state: Any, expected: Any) -> None:
    shadow, told = updated(Shadow(), {"state": state})
    assert (told.delta["state"] if told.delta is not None else None) == expected
    assert document.get(shadow, None, NOW).accepted["state"].get("delta") == expected


def test_delta_lists_all_that_differs_and_carries_the_metadata_of_desired() -> None:
    shadow, _ = updated(Shadow(), {"state": {"desired": {"a": 1, "b": {"c": 2}}}}, NOW)
    _, told = updated(shadow, {"state": {"reported": {"a": 1}}}, NOW + 5)
    assert told.delta is not None
    assert told.delta["state"] == {"b": {"c": 2}}
    assert told.delta["metadata"] == {"b": {"c": {"timestamp": NOW}}}


def test_documents_tell_before_and_after() -> None:
    shadow, first = updated(Shadow(), {"state": {"reported": {"a": 1}}})
    _, second = updated(shadow, {"state": {"reported": {"a": 2}}})
    assert first.documents is not None
    assert first.documents["previous"] is None
    assert second.documents is not None
    assert (second.documents["previous"]["version"], second.documents["current"]["version"]) == (1, 2)
    assert second.documents["previous"]["state"] == {"reported": {"a": 1}}


REFUSED = [
    (b"{", 400), (b"[]", 400), (b"{}", 400), (b'{"state": 1}', 400), (b'{"state": {"desired": 1}}', 400),
    (b'{"state": {"delta": {}}}', 400), (b'{"state": {}, "version": "1"}', 400),
    (b'{"state": {}, "version": true}', 400),
    (b'{"state": {}, "clientToken": 1}', 400), (b'{"state": {"reported": {"a": [null]}}}', 400),
    (b'{"state": {"reported": {"a": [{"b": null}]}}}', 400), (b'{"state": {"reported": {"a": NaN}}}', 400),
    (b'{"state": {}, "clientToken": "' + b"x" * 65 + b'"}', 400), (b'{"state": "\xff"}', 415),
    (b'{"state": {"reported": {"a":{"b":{"c":{"d":{"e":{"f":{}}}}}}}}}', 400), (b"[" * 20_000, 400),
    (b'{"state": {"reported": {"a": "' + b"x" * 40_000 + b'"}}}', 413),
]  # fmt: skip


@pytest.mark.parametrize(("payload", "code"), REFUSED)
def test_what_is_no_update_is_refused_with_its_code(payload: bytes, code: int) -> None:
    with pytest.raises(ShadowError) as refused:
        document.update(Shadow(), requests.read(payload), NOW)
    assert refused.value.code == code


def test_a_document_that_grew_too_large_is_refused_and_stays_as_it_was() -> None:
    shadow = after({"reported": {"a": "x" * 5_000}})
    with pytest.raises(ShadowError) as refused:
        updated(shadow, {"state": {"reported": {"b": "y" * 5_000}}})
    assert refused.value.code == 413
    assert shadow.state == {"reported": {"a": "x" * 5_000}}


def test_only_the_current_version_may_be_named() -> None:
    shadow = after({"reported": {"a": 1}}, {"reported": {"a": 2}})
    for version in (1, 3, 0):
        with pytest.raises(ShadowError) as refused:
            updated(shadow, {"state": {"reported": {"a": 9}}, "version": version})
        assert refused.value.code == 409
    again, _ = updated(shadow, {"state": {"reported": {"a": 9}}, "version": 2})
    assert again.version == 3


def test_a_shadow_that_is_not_there_cannot_be_read_or_deleted() -> None:
    for ask in (document.get, document.delete):
        with pytest.raises(ShadowError) as refused:
            ask(Shadow(), "config", NOW)
        assert (refused.value.code, refused.value.message) == (404, "No shadow exists with name: 'config'")


@pytest.mark.parametrize(("thing", "name"), [("a/b", None), ("", None), ("x" * 129, None), ("t", ""), ("t", "a b")])
def test_names_are_those_that_aws_takes(thing: str, name: str | None) -> None:
    with pytest.raises(ShadowError):
        requests.check_name(thing, name)


def test_what_cannot_be_read_still_gives_its_client_token_where_it_can() -> None:
    assert requests.echo(b'{"clientToken": "t"}') == "t"
    assert requests.echo(b"{") is None
    assert requests.echo(b'{"clientToken": 7}') is None
