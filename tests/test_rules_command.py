"""`tidegate rules`: what its commands share, and the page about them, which is run."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import cloud.daemon
import edge.daemon
from tests.rules_command import ROOT
from tidegate.rules.options import RUNS, Dice, Side

PAGE = (ROOT / "docs" / "rules" / "workflow.md").read_text()
FILES = re.findall(r"```(?:yaml|json)\n# (\S+)\n(.*?)```", PAGE, re.DOTALL)
CONSOLES = "\n".join(re.findall(r"```console\n.*?```", PAGE, re.DOTALL))
COMMANDS = re.findall(r"^\$ (.*)\n((?:(?!\$ |```).*\n)*)", CONSOLES, re.MULTILINE)


def test_each_side_runs_what_its_daemon_says() -> None:
    assert RUNS == {Side.EDGE: edge.daemon.ACTIONS, Side.CLOUD: cloud.daemon.ACTIONS}


def test_dice_with_a_seed_fall_the_same_way_again() -> None:
    first, second, other = Dice(1), Dice(1), Dice(2)
    rolled = [(dice.uuid(), dice.random(), dice.uuid()) for dice in (first, second, other)]
    assert rolled[0] == rolled[1] != rolled[2]
    assert rolled[0][0] != rolled[0][2]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of the page, and a `tidegate` to call."""
    directory = tmp_path_factory.mktemp("page")
    for name, text in FILES:
        (directory / name).write_text(text)
    (directory / "tidegate").write_text(f'#!/bin/sh\nexec {sys.executable} -m tidegate.main "$@"\n')
    (directory / "tidegate").chmod(0o755)
    return directory


@pytest.mark.parametrize(("command", "printed"), COMMANDS)
def test_the_page_shows_what_a_command_prints(directory: Path, command: str, printed: str) -> None:
    environment = {**os.environ, "PATH": f"{directory}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        ["bash", "-c", f"({command}) 2>&1"], cwd=directory, env=environment, capture_output=True, text=True, timeout=60
    )
    assert [line.rstrip() for line in done.stdout.splitlines()] == printed.splitlines()


def test_the_page_has_an_example_of_every_command() -> None:
    assert {command.split("tidegate rules ")[1].split()[0] for command, _ in COMMANDS} == {
        "check", "test", "explain", "eval",
    }  # fmt: skip
