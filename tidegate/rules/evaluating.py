"""`tidegate rules eval --jsonl`: statements about messages, for tools and tests; one JSON line in, one JSON line out.

A request:

    {"id": …, "sql": …, "topic": …, "payload": … or "payload_b64": …, "sql_version": "2016-03-23",
     "context": {"clientid": …, "timestamp": …}, "templates": {"name": "text with ${…}"}}

Its answer is {"id", "matched": true, "payload" or "payload_b64", "templates"}, or {"id", "matched": false}, or
{"id", "error": {"message", "line", "column"}}. The words of `context` are those of `rules.rehearsal.scenarios`.

Invariants:
1. Every line that is not blank has one answer, written and flushed before the next line is read.
2. Nothing that stands in a line ends the command; what is wrong with it is said in its answer.
3. A number of a request has all its digits in the answer.
"""

import re
import sys
import time
from functools import lru_cache
from typing import Annotated, Any

import typer
from pydantic import BaseModel, ValidationError

from core.errors import TidegateError
from core.faults import describe
from core.topics import BASIC_INGEST, check_name
from rules.engine import NOTHING, Rule, filter_hears, output_bytes
from rules.errors import SqlError
from rules.rehearsal.scenarios import Content, Moment
from rules.sql import payloads
from rules.sql.parser import parse_statement
from rules.sql.template import Template
from rules.sql.values import SqlVersion
from tidegate.rules.options import Dice, lines, shown

LINE_BYTES_MAX = 4_194_304  # a statement and a payload, each within its own bound
CACHED_MAX = 1_024  # tools ask the same few statements about many messages


class Request(Content):
    """One line of input."""

    id: Any = None
    sql: str
    topic: str
    sql_version: str = SqlVersion.V2016
    context: Moment | None = None
    templates: dict[str, str] | list[str] | None = None


def evaluate(jsonl: Annotated[bool, typer.Option("--jsonl", help="The only form there is.")] = False) -> None:
    """Try statements: one JSON request per line on standard input, one answer per line on standard output.

    A request: {"id", "sql", "topic", "payload" or "payload_b64"} and, if wanted, "sql_version" (by default
    2016-03-23), "context" (clientid, timestamp, sourceip, mqtt5, stubs, …), "templates" (name → text). An answer:
    {"id", "matched", "payload" or "payload_b64", "templates"}, or {"id", "error"}. More in docs/rules/workflow.md.
    """
    if not jsonl:
        raise typer.BadParameter("say --jsonl, and give one JSON request per line on standard input")
    if sys.stdin is None:  # the shell closed it
        return
    dice = Dice()
    for _, line in lines(sys.stdin.buffer, LINE_BYTES_MAX):
        sys.stdout.buffer.write(_answer(line, dice) + b"\n")
        sys.stdout.buffer.flush()


def _answer(line: bytes | None, dice: Dice) -> bytes:
    """The answer to one line; whatever is wrong with it is said in its answer."""
    identity: Any = None
    place: tuple[int | None, int | None] = (None, None)
    try:
        written = _read(line)
        identity = written.get("id") if isinstance(written, dict) else None
        return output_bytes({"id": identity, **_evaluated(_request(written), dice)})
    except SqlError as error:
        message, place = error.message, (error.line, error.column)
    except TidegateError as error:
        message = str(error)
    except RecursionError:
        message = "the request is nested too deeply"
    return output_bytes({"id": identity, "error": {"message": message, "line": place[0], "column": place[1]}})


def _read(line: bytes | None) -> Any:
    if line is None:
        raise TidegateError(f"a request has fewer than {LINE_BYTES_MAX:,} bytes")
    try:
        return payloads.read(line)
    except ValueError as error:
        raise TidegateError(f"not a line of JSON: {error}") from None


def _request(written: Any) -> Request:
    try:
        return Request.model_validate(written)
    except ValidationError as error:
        raise TidegateError("; ".join(faults(error, written, Request))) from None


def faults(error: ValidationError, written: Any, model: type[BaseModel]) -> list[str]:
    """What is wrong with a JSON document, in JSON's words: what TOML calls a table is an object here."""
    return [re.sub(r"\b(must be|not) a table\b", r"\1 an object", line) for line in describe(error, written, model)]


def _evaluated(request: Request, dice: Dice) -> dict[str, Any]:
    check_name(request.topic)
    moment = request.context or Moment()
    rule = _compiled(request.sql, _version(request.sql_version))
    templates = _templates(request.templates, rule)
    now_ms = int(time.time() * 1000) if moment.timestamp is None else moment.timestamp
    event = moment.event(request.topic, request.content, now_ms, dice)
    event.watch = time.thread_time
    if not _is_heard(rule, request.topic, moment.rule_name):
        return {"matched": False}
    output = rule.evaluate(event)
    if output is NOTHING:
        return {"matched": False}
    answer = {"matched": True, **shown("payload", output)}
    if templates is not None:
        rendered = {name: template.render(event) for name, template in templates.items()}
        answer["templates"] = rendered if isinstance(request.templates, dict) else list(rendered.values())
    return answer


def _is_heard(rule: Rule, topic: str, name: str | None) -> bool:
    """Whether a rule of this name hears the topic. Without a name, a statement without FROM is whichever is named."""
    if not topic.startswith(BASIC_INGEST):
        return filter_hears(rule.statement.source, topic)
    named = topic[len(BASIC_INGEST) :].partition("/")[0]
    return named == name or (name is None and rule.statement.source is None)


def _version(name: str) -> SqlVersion:
    try:
        return SqlVersion(name)
    except ValueError:
        raise TidegateError(f"sql_version: write {' or '.join(SqlVersion)}, not {name[:40]!r}") from None


@lru_cache(CACHED_MAX)
def _compiled(sql: str, version: SqlVersion) -> Rule:
    statement = parse_statement(sql)
    if statement.window is not None:
        raise SqlError.at(sql, statement.window.span[0], "a window collects many messages: try it with `rules test`")
    return Rule("eval", statement, version)


def _templates(written: dict[str, str] | list[str] | None, rule: Rule) -> dict[Any, Template] | None:
    """The templates by name, or by position in a list. Raises SqlError with the name before the message."""
    if written is None:
        return None
    found: dict[Any, Template] = {}
    for name, text in written.items() if isinstance(written, dict) else enumerate(written):
        try:
            found[name] = Template(text, rule.version, rule.statement)
        except SqlError as error:
            raise SqlError(f"templates.{name}: {error.message}", error.line, error.column) from None
    return found
