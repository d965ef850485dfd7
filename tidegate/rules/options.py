"""What the commands of `tidegate rules` share: the sides and what they run, options, chance, lines and payloads."""

import base64
import random
import sys
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, BinaryIO
from uuid import UUID

import typer

from core.cli import err, plain
from core.errors import TidegateError
from core.files import TESTS, read_texts
from rules.actions import ACTIONS, CLOUD_ACTIONS, EDGE_ACTIONS

__all__ = [
    "DEFAULT_RULES",
    "PAYLOAD_BYTES_MAX",
    "RUNS",
    "Dice",
    "Files",
    "OnSide",
    "Paths",
    "Side",
    "lines",
    "payload_from_stdin",
    "plain",
    "rules_texts",
    "shown",
    "supported",
]

DEFAULT_RULES = Path("/etc/tidegate/rules")
PAYLOAD_BYTES_MAX = 1_048_576  # eight times what AWS lets a device publish


class Side(StrEnum):
    """Where rules are meant to run."""

    EDGE = "edge"
    CLOUD = "cloud"


RUNS = {Side.EDGE: EDGE_ACTIONS, Side.CLOUD: CLOUD_ACTIONS}


class Dice:
    """`rules.event.Chance`; with a seed, the same numbers in every run."""

    def __init__(self, seed: int | None = None) -> None:
        self._random = random.Random(seed)

    def random(self) -> float:
        """From 0.0 to 1.0."""
        return self._random.random()

    def uuid(self) -> str:
        """A version 4 UUID."""
        return str(UUID(int=self._random.getrandbits(128), version=4))


Paths = Annotated[list[Path], typer.Argument(metavar="PATH…", help="Rules files, or directories of them.")]
Files = Annotated[list[Path] | None, typer.Option("--file", help=f"Rules files; by default {DEFAULT_RULES}.")]
OnSide = Annotated[Side | None, typer.Option("--side", help="Allow only the actions that this side can run.")]


def supported(side: Side | None) -> frozenset[str]:
    """The actions that a side can run; without one, all that AWS IoT Core has."""
    return RUNS[side] if side else frozenset(ACTIONS)


def rules_texts(paths: list[Path]) -> dict[str, str]:
    """The texts of rules files by path; raises ConfigurationError. A test that is named is left out, and that is said.

    `rules/*.yaml` of a shell names the tests among the rules too.
    """
    tests = [path for path in paths if path.name.endswith(TESTS) and not path.is_dir()]
    if tests:
        names = ", ".join(plain(str(test)) for test in tests)
        err.print(f"left out, being for `tidegate rules test`: {names}", soft_wrap=True)
    return read_texts(path for path in paths if path not in tests)


def payload_from_stdin() -> bytes:
    """The payload on standard input; raises TidegateError for one that is too long."""
    payload = sys.stdin.buffer.read(PAYLOAD_BYTES_MAX + 1)
    if len(payload) > PAYLOAD_BYTES_MAX:
        raise TidegateError(f"the payload has more than {PAYLOAD_BYTES_MAX:,} bytes")
    return payload


def lines(stream: BinaryIO, bytes_max: int) -> Iterator[tuple[int, bytes | None]]:
    """The lines that are not blank, with their numbers from 1; None for one that is too long."""
    number = 0
    while line := stream.readline(bytes_max):
        number += 1
        if len(line) < bytes_max or line.endswith(b"\n"):
            if line.strip():
                yield number, line
            continue
        while line and not line.endswith(b"\n"):
            line = stream.readline(bytes_max)
        yield number, None


def shown(name: str, output: Any) -> dict[str, Any]:
    """An output as a member of a JSON document: bytes in base64 under their own name."""
    if isinstance(output, bytes):
        return {f"{name}_b64": base64.b64encode(output).decode()}
    return {name: output}
