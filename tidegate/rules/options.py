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

from core.errors import TidegateError

DEFAULT_RULES = Path("/etc/tidegate/rules")
PAYLOAD_BYTES_MAX = 1_048_576  # eight times what AWS lets a device publish


class Side(StrEnum):
    """Where rules are meant to run."""

    EDGE = "edge"
    CLOUD = "cloud"


RUNS = {
    Side.EDGE: frozenset({"republish"}),
    Side.CLOUD: frozenset({"republish", "dynamoDBv2", "firehose", "sns"}),
}



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
    """The actions that a side can run; without one, those of either."""
    return RUNS[side] if side else frozenset().union(*RUNS.values())


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


def plain(text: str) -> str:
    """The text without what a terminal would obey."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
