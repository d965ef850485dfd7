"""`tidegate rules`: check rules files before they ship, try statements, and see why a rule did what it did.

Nothing here touches a running daemon: what is checked and evaluated are files and messages given to the command, with
the same code that the daemons run.
"""

import base64
import binascii
import sys
import time
from collections.abc import Iterator
from enum import StrEnum
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

import orjson
import typer
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from core.cli import EXIT_CONFIGURATION, Json, err, errors_to_exit_codes, out, print_facts, print_json, print_rows
from core.errors import TidegateError
from core.files import read_texts
from core.message import Message
from core.topics import check_name
from rules.compiler import Compiled, compile_expression, compile_statement
from rules.engine import NOTHING, Event, Rule, filter_hears, output_bytes
from rules.errors import EvaluationError, RulesError, SqlError
from rules.files import parse
from rules.parser import parse_statement
from rules.syntax import Expression, Literal as Constant, Statement, operands
from rules.template import Template
from rules.values import UNDEFINED, SqlVersion

LINE_BYTES_MAX = 4_194_304  # a request of `eval`: a statement and a payload, each within its own bound
PAYLOAD_BYTES_MAX = 1_048_576  # eight times what AWS lets a device publish
STATEMENTS_CACHED = 1_024  # `eval` is asked the same statements again and again

DEFAULT_RULES = Path("/etc/tidegate/rules")

app = typer.Typer(no_args_is_help=True, help="Check, try and explain rules.")


class Side(StrEnum):
    """Where a rule shall run."""

    EDGE = "edge"
    CLOUD = "cloud"


RUNS = {
    Side.EDGE: frozenset({"republish"}),
    Side.CLOUD: frozenset({"republish", "dynamoDBv2", "firehose", "sns"}),
}


# ── check ────────────────────────────────────────────────────────────────────


@app.command()
def check(
    paths: Annotated[list[Path], typer.Argument(metavar="PATH…", help="Rules files, or directories of them.")],
    side: Annotated[Side | None, typer.Option(help="Allow only the actions of this side.")] = None,
    as_json: Json = False,
) -> None:
    """Say everything that is wrong with rules files; exit with 78 when anything is."""
    with errors_to_exit_codes():
        texts = read_texts(paths)
        try:
            rules = parse(texts, supported=_supported(side))
        except RulesError as error:
            _print_problems(error, as_json)
            raise typer.Exit(EXIT_CONFIGURATION) from None
        if as_json:
            print_json({"files": len(texts), "rules": [rule.name for rule in rules], "problems": []})
        else:
            out.print(f"{len(texts)} files, {len(rules)} rules, no problems")


def _supported(side: Side | None) -> frozenset[str]:
    return RUNS[side] if side else frozenset().union(*RUNS.values())


def _print_problems(error: RulesError, as_json: bool) -> None:
    if as_json:
        print_json({"problems": [problem.__class__.__dict__ for problem in error.found]})
        return
    for problem in error.found:
        err.print(f"{problem}\n{problem.excerpt}", markup=False, soft_wrap=True)
