"""`tidegate functions …` on an edge of its own, as a user types it, and handlers to deploy."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from typer.testing import CliRunner, Result

from functions.packages.library import Library
from tidegate.functions import app

EDGE = """
[edge]
name = "box"
data_dir = "data"
[[listeners]]
address = "127.0.0.1:0"
anonymous = true
[rules]
directory = "rules"
[functions]
directory = "functions"
"""
HANDLER = "def handler(event, context):\n    return event\n"


@dataclass
class Box:
    """A directory with edge.toml, rules, code in `src`, and what is deployed."""

    path: Path

    @classmethod
    def make(cls, path: Path) -> "Box":
        """A box with nothing deployed, whose daemon does not run."""
        (path / "edge.toml").write_text(EDGE)
        for name in ("rules", "src", "data"):
            (path / name).mkdir()
        (path / "src" / "app.py").write_text(HANDLER)
        return cls(path)

    @property
    def library(self) -> Library:
        """What is deployed."""
        return Library(self.path / "functions")

    def template(self, resources: dict[str, Any], name: str = "template.yaml") -> Path:
        """A template with these resources."""
        path = self.path / name
        path.write_text(json.dumps({"Resources": resources}))
        return path

    def run(self, *arguments: object) -> Result:
        """The command's end, whatever it is."""
        words = [*map(str, arguments), "--config", str(self.path / "edge.toml")]
        return CliRunner().invoke(app, words, catch_exceptions=False)

    def ok(self, *arguments: object) -> str:
        """What the command prints when all goes well."""
        ended = self.run(*arguments)
        assert ended.exit_code == 0, ended.stderr
        return ended.stdout

    def json(self, *arguments: object) -> Any:
        """The same with --json."""
        return json.loads(self.ok(*arguments, "--json"))

    def fails(self, *arguments: object, code: int = 1) -> str:
        """What the command says when it fails."""
        ended = self.run(*arguments)
        assert ended.exit_code == code, (ended.stdout, ended.stderr)
        return ended.stderr


def function(**properties: Any) -> dict[str, Any]:
    """A function of a template, of the code in `src`."""
    plain = {"CodeUri": "src", "Handler": "app.handler", "Runtime": "python3.11"}
    return {"Type": "AWS::Serverless::Function", "Properties": plain | properties}
