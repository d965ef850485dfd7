"""What an edge answers functions that call out, and which it does not know."""

from pathlib import Path

import pytest

from core.config import RulesSection
from core.errors import ConfigurationError
from devices.answers import NoAnswer
from devices.registry import Thing
from edge.calls import CALLS, EdgeCalls
from rules.errors import CallFailed

THINGS = {"press": Thing("press", {"hall": "1"}, (), None, 0)}


def calls(directory: Path, secrets: Path | None = None) -> EdgeCalls:
    return EdgeCalls(RulesSection(directory=directory, secrets=secrets), lambda: THINGS)


def test_without_a_directory_there_are_no_secrets(tmp_path: Path) -> None:
    bare = calls(tmp_path)
    assert bare.names == CALLS - {"get_secret"}
    with pytest.raises(NoAnswer, match="no directory of secrets"):
        bare.get_secret("word")
    assert calls(tmp_path, tmp_path).names == CALLS
    with pytest.raises(ConfigurationError, match="is no directory of secrets"):
        calls(tmp_path, tmp_path / "nowhere")


def test_a_secret_is_in_the_file_of_its_name(tmp_path: Path) -> None:
    (tmp_path / "word").write_text("sesame\n")
    found = calls(tmp_path, tmp_path)
    assert found.get_secret("word") == {"SecretString": "sesame"}
    (tmp_path / "word").write_text("other\n")
    assert found.get_secret("word") == {"SecretString": "sesame"}
    found.forget()
    assert found.get_secret("word") == {"SecretString": "other"}
    with pytest.raises(NoAnswer, match="secret 'gone': No such file"):
        found.get_secret("gone")


def test_the_registry_is_asked_as_it_is_now(tmp_path: Path) -> None:
    found = calls(tmp_path)
    assert found.get_registry_data("DescribeThing", "press")["attributes"] == {"hall": "1"}
    assert found.get_registry_data("ListThingGroupsForThing", "press") == {"thingGroups": []}
    with pytest.raises(NoAnswer, match="DescribeThing: there is no thing 'lathe'"):
        found.get_registry_data("DescribeThing", "lathe")


def test_what_an_edge_cannot_be_asked_it_says(tmp_path: Path) -> None:
    found = calls(tmp_path)
    for ask in (lambda: found.get_thing_shadow("press", None), lambda: found.get_dynamodb("t", {"k": 1})):
        with pytest.raises(CallFailed, match="cannot be run here"):
            ask()
