"""What commands print: exact for machines, safe for terminals, whatever a device has sent."""

import subprocess
import sys

import orjson
import pytest
import typer

from core.cli import errors_to_exit_codes, print_facts, print_rows
from core.errors import TidegateError


def test_markup_and_control_characters_in_a_payload_are_shown_and_not_obeyed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    print_rows([{"payload": "[/x] :smile: \x1b[31mred\nline"}])
    printed = capsys.readouterr().out
    assert "[/x] :smile: \\x1b[31mred\\nline" in printed
    assert "\x1b" not in printed


def test_json_is_one_document_on_standard_output(capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    print_facts({"a": 1, "b": None, "c": 1.5}, as_json=True)
    assert orjson.loads(capsysbinary.readouterr().out) == {"a": 1, "b": None, "c": 1.5}


@pytest.mark.parametrize(
    "command",
    ["", "edge", "cloud", "rules", "devices", "buffer", "tables", "streams", "alerts", "demo", "edge run", "cloud run"],
)
def test_every_command_explains_itself(command: str) -> None:
    arguments = [sys.executable, "-m", "tidegate.main", *command.split(), "--help"]
    ended = subprocess.run(arguments, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 0, ended.stderr
    assert "Usage:" in ended.stdout


@pytest.mark.parametrize("arguments", [["no-such-command"], ["edge", "status", "--no-such-option"]])
def test_a_usage_error_exits_with_2(arguments: list[str]) -> None:
    command = [sys.executable, "-m", "tidegate.main", *arguments]
    assert subprocess.run(command, capture_output=True, timeout=60, check=False).returncode == 2


def test_a_daemon_carries_neither_typer_nor_rich() -> None:
    program = (
        "import sys, edge.daemon, cloud.daemon, tidegate.daemons; "
        "sys.exit(', '.join({'typer', 'rich', 'boto3', 'starlette'} & set(sys.modules)) or 0)"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 0, ended.stderr


def test_an_error_cannot_make_a_terminal_do_anything(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit), errors_to_exit_codes():
        raise TidegateError("no \x1b[31mred\nthing")
    assert capsys.readouterr().err == "tidegate: no \\x1b[31mred\nthing\n"
