"""The examples of docs/rules, run: every block marked `example`, every row of a table of examples.

The templates of docs/functions.md are read, its handlers compiled, and its command lines are ones that there are.
"""

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
import typer

from core.message import Message
from rules.actions import EDGE_ACTIONS
from rules.engine import NOTHING, Event, Rule, RuleSet, output_bytes
from rules.files.arns import Account
from rules.sql.parser import parse_statement
from rules.sql.payloads import read
from rules.sql.values import SqlVersion
from tidegate.functions import app, template

PAGES = sorted((Path(__file__).parent.parent / "docs" / "rules").glob("*.md"))

FUNCTIONS = (Path(__file__).parent.parent / "docs" / "functions.md").read_text()
TEMPLATES = re.findall(r"```yaml\n(.*?^Resources:.*?)```", FUNCTIONS, re.DOTALL | re.MULTILINE)
HANDLERS = re.findall(r"```python\n(.*?)```", FUNCTIONS, re.DOTALL)
COMMANDS = re.findall(r"(?:^|\$ |\| |`)(tidegate functions \w[^\n`]*)", FUNCTIONS, re.MULTILINE)

FIELD = re.compile(r"(?:^|\n)(version|topic|payload|text|sql|output):[ \t]*(.*?)(?=\n\w+:|\Z)", re.DOTALL)
CODE = re.compile(r"`((?:[^`\\]|\\.)+)`")
HEAD = re.compile(r"\|.*\bexample\b.*\|.*\bgives\b.*\|", re.IGNORECASE)

NOW_MS = 1_700_000_000_000


class FixedChance:
    """The same random values each time."""

    def random(self) -> float:
        return 0.25

    def uuid(self) -> str:
        return "00000000-0000-4000-8000-000000000000"


def event(topic: str, payload: bytes) -> Event:
    return Event(Message(topic, payload, client_id="oven-7"), NOW_MS, chance=FixedChance())


def blocks() -> Iterator[Any]:
    for page in PAGES:
        for number, block in enumerate(re.findall(r"```example\n(.*?)```", page.read_text(), re.DOTALL), 1):
            yield pytest.param(dict(FIELD.findall(block.rstrip())), id=f"{page.name}-{number}")


def rows() -> Iterator[Any]:
    """(expression, what it gives) of every table that has the columns `example` and `gives`."""
    for page in PAGES:
        columns: list[str] | None = None
        for line in page.read_text().splitlines():
            if not line.startswith("|"):
                columns = None
            elif HEAD.fullmatch(line):
                columns = [cell.strip().lower() for cell in line.strip("|").split("|")]
            elif columns and not re.fullmatch(r"[|: -]+", line):
                cells = dict(zip(columns, re.split(r"(?<!\\)\|", line.strip("|")), strict=True))
                examples, gives = CODE.findall(cells["example"]), CODE.findall(cells["gives"])
                assert len(examples) == len(gives), line
                for example, gift in zip(examples, gives, strict=True):
                    written = example.replace("\\|", "|"), gift.replace("\\|", "|")
                    yield pytest.param(*written, id=f"{page.name}-{example}")


@pytest.mark.parametrize("example", [*blocks()])
def test_an_example_block_does_what_it_says(example: dict[str, str]) -> None:
    payload = example["text"].encode() if "text" in example else example.get("payload", "").encode()
    version = SqlVersion(example.get("version", "2016-03-23").strip())
    rule = Rule("example", parse_statement(example["sql"]), version)
    topic = example.get("topic", "plant/l1/oven/telemetry").strip()
    heard = rule.statement.source is None or bool(RuleSet([rule]).match(topic))
    output = rule.evaluate(event(topic, payload)) if heard else NOTHING
    if example["output"].strip() == "nothing":
        assert output is NOTHING
    else:
        assert output is not NOTHING
        assert normal(output_bytes(output)) == normal(example["output"].encode())


def normal(text: bytes) -> str:
    """JSON with one way of writing, in which 10 and 10.0 differ."""
    return repr(orjson.loads(orjson.dumps(orjson.loads(text), option=orjson.OPT_SORT_KEYS)))


@pytest.mark.parametrize(("expression", "gives"), [*rows()])
def test_an_example_in_a_table_gives_what_it_says(expression: str, gives: str) -> None:
    rule = Rule("example", parse_statement(f"SELECT {expression} AS it"), SqlVersion.V2016)
    output = rule.evaluate(event("plant/l1/oven/telemetry", b'{"a": 1, "list": [1, 2], "o": {"k": 1}}'))
    if gives == "Undefined":
        assert output == {}
    else:
        assert normal(output_bytes(output["it"])) == normal(gives.encode())
        assert read(gives.encode()) == output["it"]


def test_there_are_examples() -> None:
    assert len(list(blocks())) > 10
    assert len(list(rows())) > 10


# -- docs/functions.md ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", TEMPLATES)
def test_a_template_of_the_page_can_be_deployed(tmp_path: Path, text: str) -> None:
    (tmp_path / "src").mkdir()
    (tmp_path / "requirements.txt").touch()
    found = template.read(tmp_path / "template.yaml", text, Account(), supported=EDGE_ACTIONS)
    assert len(found.functions) == 1
    assert found.warnings == []


@pytest.mark.parametrize("source", HANDLERS)
def test_the_python_of_the_page_is_python(source: str) -> None:
    ast.parse(source)


@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_line_of_the_page_is_one(line: str) -> None:
    words = shlex.split(re.sub(r"  .*| [<&].*", "", line))[2:]
    command: Any = typer.main.get_command(app)
    while hasattr(command, "commands"):
        assert words[0] in command.commands
        command = command.commands[words.pop(0)]
    if words:  # else the command is only named
        command.make_context(command.name, words)  # raises a usage error


def test_the_page_has_examples() -> None:
    assert len(TEMPLATES) >= 3
    assert len(HANDLERS) >= 3
    assert len(COMMANDS) >= 20
