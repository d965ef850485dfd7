"""`tidegate rules check`: everything that is wrong with rules files, and what may be, before a daemon is told to use
them.

Errors keep a file from being used and end the command with 78; warnings are about rules that can run and may not do
what was meant. Where they come from: `rules.files` and `rules.advice`. With a cloud's configuration the tables, streams
and topics that it has are held against the rules too.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from cloud.config import load
from cloud.targets import UnknownTarget
from cloud.targets.alerts import topic_name
from cloud.targets.config import TargetsConfig
from core.cli import EXIT_CONFIGURATION, EXIT_FAILED, Json, err, errors_to_exit_codes, out, print_fault, print_json
from rules.actions import Action, DynamoDBv2, Firehose, Sns
from rules.advice import Finding, advise
from rules.errors import PROBLEMS_MAX, Problem
from rules.files import Survey, survey
from tidegate.rules.options import OnSide, Paths, Side, rules_texts, supported

Config = Annotated[
    Path | None, typer.Option("--config", help="A cloud.toml, whose tables, streams and topics the rules must name.")
]
Strict = Annotated[bool, typer.Option("--strict", help="Exit with 1 when there are warnings.")]
Allow = Annotated[list[str] | None, typer.Option("--allow", metavar="CODE", help="Warn of no such thing.")]


@dataclass(frozen=True, slots=True)
class Said:
    """One problem with, for a warning, the name of its kind and what to write instead."""

    problem: Problem
    code: str = ""
    suggestion: str = ""


def check(
    paths: Paths,
    side: OnSide = None,
    config: Config = None,
    strict: Strict = False,
    allow: Allow = None,
    as_json: Json = False,
) -> None:
    """Say everything that is wrong with rules files and what may be; exit with 78 when anything is wrong."""
    with errors_to_exit_codes():
        if config is not None and side is Side.EDGE:
            raise typer.BadParameter("tables, streams and topics are a cloud's", param_hint="--config")
        targets = load(config).targets if config is not None else None
        texts = rules_texts(paths)
        found = survey(texts, supported(Side.CLOUD if targets is not None else side))
        said = sorted(_everything(found, targets, allow or ()), key=_place(list(texts)))
        said += _empty(paths, texts, found)
    errors = sum(one.problem.severity == "error" for one in said)
    warnings = len(said) - errors
    if as_json:
        print_json(
            {
                "files": list(texts),
                "rules": [rule.name for rule in found.rules],
                "errors": errors,
                "warnings": warnings,
                "problems": [_document(one) for one in said],
            }
        )
    else:
        _print(said, f"{_counted(errors, warnings)}; files: {len(texts)}, rules: {len(found.rules)}")
    if errors:
        raise typer.Exit(EXIT_CONFIGURATION)
    if warnings and strict:
        raise typer.Exit(EXIT_FAILED)


def _everything(found: Survey, targets: TargetsConfig | None, allow: Iterable[str]) -> Iterator[Said]:
    yield from map(Said, found.problems)
    tables = {name: table.keys for name, table in targets.tables.items()} if targets is not None else {}
    for finding in advise(found.rules, tables, frozenset(allow)):
        problem = found.sources[finding.rule].problem(str(finding), finding.place, finding.offset, severity="warning")
        yield Said(problem, finding.code, finding.suggestion)
    for unknown in _unknown_targets(found, targets) if targets is not None else ():
        yield Said(found.sources[unknown.rule].problem(str(unknown), unknown.place), unknown.code)


def _empty(paths: list[Path], texts: Mapping[str, str], found: Survey) -> Iterator[Said]:
    """A warning for every path that nothing came of, not even an error: perhaps another one was meant."""
    if len(found.problems) > PROBLEMS_MAX:
        return  # the last files may not have been read
    told = {source.file for source in found.sources.values()} | {problem.file for problem in found.problems}
    for path in dict.fromkeys(paths):
        below = [file for file in texts if Path(file) == path or Path(file).parent == path]
        if told.isdisjoint(below) and (below or path.is_dir()):
            yield Said(Problem(str(path), 1, 1, "there is no rule here", severity="warning"), "no-rule")


def _unknown_targets(found: Survey, targets: TargetsConfig) -> Iterator[Finding]:
    """An error for every action that names a target which the cloud does not have."""
    for rule in found.rules:
        actions: list[tuple[tuple[str | int, ...], Action]] = [
            (("actions", position, action.name), action) for position, action in enumerate(rule.actions)
        ]
        if rule.error_action is not None:
            actions.append((("errorAction", rule.error_action.name), rule.error_action))
        for place, action in actions:
            if (asked := _target(action, targets)) is not None:
                kind, name, known, key = asked
                if name not in known:
                    yield Finding(rule.name, "unknown-target", (*place, *key), str(UnknownTarget(kind, name, known)))


def _target(action: Action, targets: TargetsConfig) -> tuple[str, str, Mapping[str, object], tuple[str, ...]] | None:
    """What an action writes to: kind, name, all that there are, and the parameter that says so."""
    match action:
        case DynamoDBv2():
            return "table", action.put_item.table_name, targets.tables, ("putItem", "tableName")
        case Firehose():
            return "stream", action.delivery_stream_name, targets.streams, ("deliveryStreamName",)
        case Sns():
            return "topic", topic_name(action.target_arn), targets.topics, ("targetArn",)
    return None


def _place(files: list[str]) -> Any:
    order = {file: position for position, file in enumerate(files)}
    return lambda said: (order[said.problem.file], said.problem.line, said.problem.column)


def _document(said: Said) -> dict[str, Any]:
    return {**asdict(said.problem), "code": said.code, "suggestion": said.suggestion}


def _print(said: list[Said], summary: str) -> None:
    for one in said:
        print_fault(one.problem, "red" if one.problem.severity == "error" else "yellow")
    (err if any(one.problem.severity == "error" for one in said) else out).print(summary)


def _counted(errors: int, warnings: int) -> str:
    words = [f"{count} {word}{'s' if count > 1 else ''}" for count, word in ((errors, "error"), (warnings, "warning"))]
    return ", ".join(said for said, count in zip(words, (errors, warnings), strict=True) if count) or "no problems"
