"""`tidegate functions`: what is deployed is listed, rolled back, named and removed, and none of it needs a daemon."""

from pathlib import Path

import pytest

from tests.functions_command import Box, function


@pytest.fixture
def box(tmp_path: Path) -> Box:
    return Box.make(tmp_path)


@pytest.fixture
def deployed(box: Box) -> Box:
    """Three versions of `press`, whose alias `live` is published with each, and one of `other`."""
    template = box.template({"press": function(AutoPublishAlias="live"), "other": function()})
    box.ok("deploy", template)
    for _ in range(2):
        box.ok("deploy", template, "--function", "press")
    return box


def versions(box: Box) -> dict[str, int]:
    return {row["name"]: row["version"] for row in box.json("list")}


def test_a_list_has_the_version_that_events_go_to(deployed: Box) -> None:
    other, press = deployed.json("list")
    assert (press["name"], press["version"], press["aliases"]) == ("press", 3, ["$LATEST", "live"])
    assert (other["name"], other["version"], other["runtime"]) == ("other", 1, "python3.11")
    assert press["bytes"] == (deployed.path / "src" / "app.py").stat().st_size
    assert "press" in deployed.ok("list")


def test_nothing_deployed_is_an_empty_list(box: Box) -> None:
    assert box.json("list") == []
    assert "nothing to show" in box.ok("list")


def test_a_damaged_function_is_said_and_does_not_hide_the_others(deployed: Box) -> None:
    manifest = deployed.library.current()[1].path / "manifest.json"
    manifest.write_text("{")
    assert list(versions(deployed)) == ["other"]
    assert str(manifest) in deployed.ok("list")


def test_a_function_is_shown_with_all_its_versions(deployed: Box) -> None:
    shown = deployed.json("show", "press")
    assert (shown["version"], shown["handler"], shown["alias"]) == (3, "app.handler", "live")
    assert [each["version"] for each in shown["versions"]] == [1, 2, 3]
    assert deployed.json("show", "press:1")["version"] == 1
    assert "app.handler" in deployed.ok("show", "press")
    assert "Function not found" in deployed.fails("show", "nobody")


def test_a_rollback_goes_to_the_version_before_and_one_further_each_time(deployed: Box) -> None:
    deployed.ok("rollback", "press")
    assert versions(deployed)["press"] == 2
    assert deployed.library.aliases("press") == {"$LATEST": 2, "live": 2}
    deployed.ok("rollback", "press")
    assert versions(deployed)["press"] == 1
    assert "press has no version before 1" in deployed.fails("rollback", "press")
    deployed.ok("rollback", "press", "--to", 3)
    assert versions(deployed)["press"] == 3
    assert "not found" in deployed.fails("rollback", "press", "--to", 9).lower()


def test_a_version_that_is_deployed_after_a_rollback_is_a_new_one(deployed: Box) -> None:
    deployed.ok("rollback", "press")
    [row] = deployed.json("deploy", deployed.path / "template.yaml", "--function", "press")["functions"]
    assert row["version"] == 4
    assert versions(deployed)["press"] == 4


def test_an_alias_names_a_version_until_it_is_deleted(deployed: Box) -> None:
    deployed.ok("alias", "press", "blue", 1)
    assert deployed.json("show", "press:blue")["version"] == 1
    assert "press:1 is what blue names" in deployed.fails("remove", "press", "--version", 1)
    deployed.ok("alias", "press", "blue", "--delete")
    assert "not found" in deployed.fails("show", "press:blue").lower()
    deployed.ok("remove", "press", "--version", 1)
    assert [each["version"] for each in deployed.json("show", "press")["versions"]] == [2, 3]
    deployed.fails("alias", "press", "blue", code=2)


def test_a_removed_function_is_gone(deployed: Box) -> None:
    deployed.ok("remove", "press")
    assert list(versions(deployed)) == ["other"]
    assert "Function not found" in deployed.fails("remove", "press")


@pytest.mark.parametrize("command", [("remove",), ("rollback",), ("alias", "blue", 1)])
@pytest.mark.parametrize("name", ["press:1", "press:live", "press:$LATEST", "function:press:1"])
def test_one_version_is_not_taken_for_the_whole_function(
    deployed: Box, command: tuple[str | int, ...], name: str
) -> None:
    verb, *more = command
    assert "one version of press" in " ".join(deployed.fails(verb, name, *more, code=2).replace("│", " ").split())
    assert [each["version"] for each in deployed.json("show", "press")["versions"]] == [1, 2, 3]
    assert deployed.library.aliases("press") == {"$LATEST": 3, "live": 3}


def test_an_edge_without_functions_says_what_to_write(box: Box) -> None:
    config = box.path / "edge.toml"
    config.write_text(config.read_text().split("[functions]")[0])
    assert "write [functions] and directory =" in box.fails("list", code=78)


def test_a_cloud_has_functions_too(box: Box) -> None:
    config = box.path / "edge.toml"
    config.write_text(config.read_text().replace('[edge]\nname = "box"\n', "[cloud]\n"))
    box.ok("deploy", box.template({"A": function()}))
    assert list(versions(box)) == ["A"]
