"""`tidegate rules`: check rules files before they ship, try statements, and see why a rule did what it did.

Nothing here touches a running daemon: what is checked and evaluated are files and messages given to the
command, with the same code that the daemons run.
"""

import base64
import binascii
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from enum import StrEnum
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import orjson
import typer
from pydantic import BaseModel, ConfigDict, ValidationError

from core.cli import EXIT_CONFIGURATION, Json, err, errors_to_exit_codes, out, print_json, print_rows
from core.errors import TidegateError
from core.files import read_texts
from core.message import Message
from core.topics import check_name
from rules.compiler import compile_expression
from rules.engine import NOTHING, Event, Rule, RuleSet, filter_hears, output_bytes
from rules.errors import EvaluationError, RulesError, SqlError
from rules.files import parse
from rules.parser import parse_statement
from rules.syntax import Expression, Literal, operands
from rules.template import Template
from rules.values import UNDEFINED, SqlVersion

LINE_BYTES_MAX = 4_194_304  # one line for `eval`: a statement and a payload, each within its own bound
PAYLOAD_BYTES_MAX = 1_048_576  # eight times what AWS lets a device publish
STATEMENTS_CACHED = 1_024  # `eval` is asked the same few statements about many messages

DEFAULT_RULES = Path("/etc/tidegate/rules")

app = typer.Typer(no_args_is_help=True, help="Check, try and explain rules.")


class Side(StrEnum):
    """Where rules are meant to run."""

    EDGE = "edge"
    CLOUD = "cloud"


RUNS = {
    Side.EDGE: frozenset({"republish"}),
    Side.CLOUD: frozenset({"republish", "dynamoDBv2", "firehose", "sns"}),
}

Paths = Annotated[list[Path], typer.Argument(metavar="PATH…", help="Rules files, or directories of them.")]
Files = Annotated[list[Path] | None, typer.Option("--file", help=f"Rules files; by default {DEFAULT_RULES}.")]
OnSide = Annotated[Side | None, typer.Option("--side", help="Allow only the actions that this side can run.")]


# ── check ───────────────────────────────────────────────────────────────────────────────────────────────────


@app.command()
def check(paths: Paths, side: OnSide = None, as_json: Json = False) -> None:
    """Say everything that is wrong with rules files; exit with 78 when anything is."""
    with errors_to_exit_codes():
        texts = read_texts(paths)
        try:
            rules = parse(texts, supported=_supported(side))
        except RulesError as error:
            _print_problems(error, as_json)
            raise typer.Exit(EXIT_CONFIGURATION) from None
        if as_json:
            print_json({"files": list(texts), "rules": [rule.name for rule in rules], "problems": []})
        else:
            out.print(f"no problems; files: {len(texts)}, rules: {len(rules)}")


def _supported(side: Side | None) -> frozenset[str]:
    return RUNS[side] if side else frozenset().union(*RUNS.values())


def _print_problems(error: RulesError, as_json: bool) -> None:
    if as_json:
        print_json({"problems": [asdict(problem) for problem in error.found]})
        return
    for problem in error.found:
        err.print(str(problem), style="red", markup=False, soft_wrap=True)
        err.print(problem.excerpt, markup=False, soft_wrap=True)


# ── eval ────────────────────────────────────────────────────────────────────────────────────────────────────


class _Context(BaseModel):
    """What a message carries beside topic and payload, by the names of the functions that tell it."""

    model_config = ConfigDict(strict=True, extra="ignore")

    clientid: str = ""
    timestamp: int | None = None


class _Request(BaseModel):
    """One line of input. Without `payload` and `payload_b64` the payload is empty."""

    model_config = ConfigDict(strict=True, extra="forbid")

    id: Any = None
    sql: str
    topic: str
    payload: Any = None
    payload_b64: str | None = None
    sql_version: str = SqlVersion.V2016
    context: _Context = _Context()
    templates: list[str] | dict[str, str] | None = None


@app.command("eval")
def evaluate(jsonl: Annotated[bool, typer.Option("--jsonl", help="The only form there is.")] = False) -> None:
    """Try statements: one JSON request per line on standard input, one answer per line on standard output.

    A request: {"id", "sql", "topic", "payload" or "payload_b64"} and, if wanted, "sql_version" (by default
    2016-03-23), "context" ({"clientid", "timestamp"}), "templates" (a list or an object of texts). An answer:
    {"id", "matched", "payload" or "payload_b64", "templates"}, or {"id", "error"}.
    """
    if not jsonl:
        raise typer.BadParameter("say --jsonl, and give one JSON request per line on standard input")
    for line in _lines(sys.stdin.buffer):
        sys.stdout.buffer.write(_answer(line) + b"\n")
        sys.stdout.buffer.flush()


def _lines(stream: BinaryIO) -> Iterator[bytes | None]:
    """The lines that are not blank; None for one that is too long."""
    while line := stream.readline(LINE_BYTES_MAX):
        whole = len(line) < LINE_BYTES_MAX or line.endswith(b"\n")
        if not whole:
            while line and not line.endswith(b"\n"):
                line = stream.readline(LINE_BYTES_MAX)
            yield None
        elif line.strip():
            yield line


def _answer(line: bytes | None) -> bytes:
    """The answer to one line; whatever is wrong with it is said in its answer."""
    identity = None
    try:
        written = _read(line)
        identity = written.get("id") if isinstance(written, dict) else None
        return output_bytes({"id": identity, **_evaluated(_Request.model_validate(written))})
    except SqlError as error:
        fault = {"message": error.message, "line": error.line, "column": error.column}
    except ValidationError as error:
        first = error.errors()[0]
        message = f"{'.'.join(map(str, first['loc'])) or 'the request'}: {first['msg']}"
        fault = {"message": message, "line": None, "column": None}
    except (orjson.JSONDecodeError, TidegateError) as error:
        fault = {"message": str(error), "line": None, "column": None}
    return orjson.dumps({"id": identity, "error": fault})


def _read(line: bytes | None) -> Any:
    if line is None:
        raise TidegateError(f"a request has fewer than {LINE_BYTES_MAX:,} bytes")
    return orjson.loads(line)


def _evaluated(request: _Request) -> dict[str, Any]:
    check_name(request.topic)
    version = _version(request.sql_version)
    rule = _compiled(request.sql, version)
    now_ms = request.context.timestamp
    message = Message(request.topic, _payload(request), client_id=request.context.clientid)
    event = Event(message, int(time.time() * 1000) if now_ms is None else now_ms)
    templates = _templates(request.templates, version)
    if not filter_hears(rule.statement.source, request.topic):
        return {"matched": False}
    output = rule.evaluate(event)
    if output is NOTHING:
        return {"matched": False}
    answer: dict[str, Any] = {"matched": True, **_shown("payload", output)}
    if isinstance(templates, dict):
        answer["templates"] = {name: template.render(event) for name, template in templates.items()}
    elif templates is not None:
        answer["templates"] = [template.render(event) for template in templates]
    return answer


def _version(name: str) -> SqlVersion:
    try:
        return SqlVersion(name)
    except ValueError:
        raise TidegateError(f"sql_version is {' or '.join(SqlVersion)}, not {name[:40]!r}") from None


@lru_cache(STATEMENTS_CACHED)
def _compiled(sql: str, version: SqlVersion) -> Rule:
    return Rule("eval", parse_statement(sql), version)


def _templates(
    written: list[str] | dict[str, str] | None, version: SqlVersion
) -> list[Template] | dict[str, Template] | None:
    if isinstance(written, dict):
        return {name: Template(text, version) for name, text in written.items()}
    return None if written is None else [Template(text, version) for text in written]


def _payload(request: _Request) -> bytes:
    if request.payload_b64 is None:
        return orjson.dumps(request.payload) if "payload" in request.model_fields_set else b""
    try:
        return base64.b64decode(request.payload_b64, validate=True)
    except (binascii.Error, ValueError) as error:
        raise TidegateError(f"payload_b64: {error}") from error


def _shown(name: str, output: Any) -> dict[str, Any]:
    """An output as a member of a JSON document: bytes in base64 under their own name."""
    if isinstance(output, bytes):
        return {f"{name}_b64": base64.b64encode(output).decode()}
    return {name: output}


# ── explain ─────────────────────────────────────────────────────────────────────────────────────────────────


@app.command()
def explain(
    name: Annotated[str, typer.Argument(metavar="RULE", help="The name of the rule.")],
    topic: Annotated[str, typer.Option(help="The topic that the message came on.")],
    files: Files = None,
    client_id: Annotated[str, typer.Option(help="Who published it.")] = "",
    as_json: Json = False,
) -> None:
    """Show what a rule makes of the message whose payload stands on standard input, and why."""
    with errors_to_exit_codes():
        check_name(topic)
        rule = _rule(parse(read_texts(files or [DEFAULT_RULES]), supported=_supported(None)), name)
        payload = sys.stdin.buffer.read(PAYLOAD_BYTES_MAX + 1)
        if len(payload) > PAYLOAD_BYTES_MAX:
            raise TidegateError(f"the payload has more than {PAYLOAD_BYTES_MAX:,} bytes")
        event = Event(Message(topic, payload, client_id=client_id), int(time.time() * 1000))
        facts = _explanation(rule, event)
        if as_json:
            sys.stdout.buffer.write(output_bytes(facts) + b"\n")
        else:
            _print_explanation(facts)


def _rule(rules: RuleSet, name: str) -> Rule:
    for rule in rules:
        if rule.name == name:
            return rule
    raise TidegateError(f"there is no rule {name}; there are: {', '.join(rule.name for rule in rules) or 'none'}")


def _explanation(rule: Rule, event: Event) -> dict[str, Any]:
    heard = filter_hears(rule.statement.source, event.message.topic)
    output = rule.evaluate(event)
    passed = output is not NOTHING
    return {
        "rule": rule.name,
        "disabled": rule.disabled,
        "filter": rule.statement.source,
        "topic": event.message.topic,
        "filter_matches": heard,
        "payload_is_json": not isinstance(event.value, bytes),
        "where": [_value_of(part, rule, event) for part in _parts(rule.statement.where)],
        "where_is_true": passed,
        "acts": heard and passed and not rule.disabled,
        **(_shown("output", output) if passed else {}),
    }


def _parts(where: Expression | None) -> Iterator[Expression]:
    """WHERE and everything in it that a message decides, the whole before its parts."""
    waiting = [where] if where is not None else []
    while waiting:
        expression = waiting.pop()
        if not isinstance(expression, Literal):
            yield expression
        waiting += reversed(operands(expression))


def _value_of(part: Expression, rule: Rule, event: Event) -> dict[str, Any]:
    written = rule.sql[slice(*part.span)]
    try:
        value = compile_expression(part, rule.sql, rule.version)(event)
    except EvaluationError as error:
        return {"expression": written, "error": str(error)}
    return {"expression": written} if value is UNDEFINED else {"expression": written, "value": value}


def _print_explanation(facts: dict[str, Any]) -> None:
    heard = "hears" if facts["filter_matches"] else "does not hear"
    out.print(f"FROM '{facts['filter']}' {heard} {facts['topic']}", markup=False, soft_wrap=True)
    if not facts["payload_is_json"]:
        out.print("the payload is not JSON, so every member of it is Undefined")
    rows = [{"expression": part["expression"], "value": _written(part)} for part in facts["where"]]
    if rows:
        print_rows(rows)
    out.print(f"WHERE is {'true' if facts['where_is_true'] else 'not true'}" if rows else "there is no WHERE")
    if facts["disabled"]:
        out.print("the rule is disabled")
    if not facts["acts"]:
        out.print("so nothing happens")
        return
    out.print(
        "output:",
        facts.get("output_b64") or output_bytes(facts["output"]).decode(),
        markup=False,
        soft_wrap=True,
    )


def _written(part: dict[str, Any]) -> str:
    if "value" not in part:
        return str(part.get("error", "Undefined"))
    return output_bytes(part["value"]).decode()


if __name__ == "__main__":
    app()
