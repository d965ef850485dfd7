"""`tidegate rules test`: test files run against the rules beside them, or recorded traffic against any rules.

Runs no daemon and no action. What is random falls the same way in every run, and the time is what a test says. The
format of test files is in `rules.rehearsal.trials`, what is compared in `rules.rehearsal.verdicts`.
"""

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from core.cli import EXIT_FAILED, Json, errors_to_exit_codes, out, print_json
from core.errors import ConfigurationError, TidegateError
from core.files import FILES_MAX, SUFFIXES, TESTS, read_texts
from rules.engine import RuleSet
from rules.files import parse
from rules.rehearsal.trials import Case, read
from rules.rehearsal.verdicts import Difference, Verdict, judge
from tidegate.rules import recording
from tidegate.rules.options import Dice, plain, rules_texts, supported

SEED = 0

Record = Annotated[
    Path | None,
    typer.Option("--record", metavar="FILE.jsonl", help="Show what the rules of PATH… make of recorded messages."),
]


@dataclass(frozen=True, slots=True)
class Trial:
    """One test file with the rules that it is about."""

    file: str
    cases: list[Case]
    rules: RuleSet


def run_tests(
    paths: Annotated[list[Path], typer.Argument(metavar="PATH…", help="Test files, rules files, or directories.")],
    record: Record = None,
    as_json: Json = False,
) -> None:
    """Run the tests beside rules files (hot.test.yaml beside hot.yaml); exit with 1 when one fails.

    With --record, run no tests: show instead what the rules would make of recorded messages, one JSON object per line,
    as `mosquitto_sub -F %j` writes them.
    """
    with errors_to_exit_codes():
        if record is not None:
            recording.replay(record, parse(rules_texts(paths), supported=supported(None)), as_json)
            return
        trials = list(_load(_test_files(paths)))
        verdicts = {trial.file: [judge(case, trial.rules, Dice(SEED)) for case in trial.cases] for trial in trials}
        never = _never_fired(trials, verdicts)
        if as_json:
            print_json(_document(verdicts, never))
        else:
            _print(verdicts, never)
    if not all(verdict.passed for of_file in verdicts.values() for verdict in of_file):
        raise typer.Exit(EXIT_FAILED)


# ── files ───────────────────────────────────────────────────────────────────────────────────────────────────


def _test_files(paths: list[Path]) -> list[Path]:
    """The test files that are meant, each once: those named, those beside rules files, those below directories."""
    found: dict[Path, None] = {}
    for path in paths:
        if path.is_dir():
            below = (file for ending in TESTS for file in path.rglob(f"*{ending}") if not _is_hidden(file, path))
            found |= dict.fromkeys(sorted(file for file in below if file.is_file()))
        elif path.name.endswith(TESTS):
            found[path] = None
        else:
            found |= dict.fromkeys(_beside(path))
        if len(found) > FILES_MAX:
            raise ConfigurationError("tests", [f"more than {FILES_MAX:,} files; name fewer directories"])
    if not found:
        raise TidegateError(f"there are no test files (*{', *'.join(TESTS)}) in {', '.join(map(str, paths))}")
    return list(found)


def _is_hidden(file: Path, below: Path) -> bool:
    return any(part.startswith(".") for part in file.relative_to(below).parts)


def _beside(rules: Path) -> list[Path]:
    if not rules.exists():
        raise ConfigurationError("cannot read", [f"{rules}: there is no such file or directory"])
    files = [file for ending in TESTS if (file := rules.with_name(rules.stem + ending)).is_file()]
    if not files:
        raise TidegateError(f"{rules} has no tests; they would stand in {rules.with_name(rules.stem + '.test.yaml')}")
    return files


def _load(files: list[Path]) -> Iterator[Trial]:
    for file, text in read_texts(files).items():
        trials = read(file, text)
        rules = _rules_of(Path(file), trials.rules)
        yield Trial(file, trials.tests, parse(read_texts(rules), supported=supported(None)))


def _rules_of(file: Path, named: list[str] | None) -> list[Path]:
    if named is not None:
        return [file.parent / name for name in named]
    stem = next(file.name.removesuffix(ending) for ending in TESTS if file.name.endswith(ending))
    found = [beside for suffix in sorted(SUFFIXES) if (beside := file.with_name(stem + suffix)).is_file()]
    if not found:
        raise TidegateError(f"{file}: there is no {stem}.yaml beside it; write `rules:` and the path of what it tests")
    return found


# ── results ─────────────────────────────────────────────────────────────────────────────────────────────────


def _never_fired(trials: list[Trial], verdicts: Mapping[str, list[Verdict]]) -> list[str]:
    fired = {rule for of_file in verdicts.values() for verdict in of_file for rule in verdict.fired}
    names = dict.fromkeys(rule.name for trial in trials for rule in trial.rules if not rule.disabled)
    return [name for name in names if name not in fired]


def _document(verdicts: Mapping[str, list[Verdict]], never: list[str]) -> dict[str, Any]:
    every = [verdict for of_file in verdicts.values() for verdict in of_file]
    files = [
        {
            "file": file,
            "tests": [
                {"name": v.case, "passed": v.passed, "differences": [asdict(found) for found in v.differences]}
                for v in of_file
            ],
        }
        for file, of_file in verdicts.items()
    ]
    passed = sum(verdict.passed for verdict in every)
    return {"passed": passed, "failed": len(every) - passed, "files": files, "never_fired": never}


def _print(verdicts: Mapping[str, list[Verdict]], never: list[str]) -> None:
    for file, of_file in verdicts.items():
        out.print(file, style="bold", soft_wrap=True)
        for verdict in of_file:
            style, word = ("green", "passed") if verdict.passed else ("red", "FAILED")
            out.print(f"  {word}", style=style, end="")
            out.print(f"  {plain(verdict.case)}", soft_wrap=True)
            for difference in verdict.differences:
                _print_difference(difference)
    every = [verdict for of_file in verdicts.values() for verdict in of_file]
    passed = sum(verdict.passed for verdict in every)
    if never:
        out.print(f"rules that no test fires: {', '.join(never)}", style="yellow", soft_wrap=True)
    failed = f", {len(every) - passed} failed" if passed < len(every) else ""
    out.print(f"{passed} passed{failed}", style="red" if failed else "green")


def _print_difference(difference: Difference) -> None:
    words = f"{difference.rule} {difference.message}" if difference.rule else difference.message
    out.print(f"          {plain(words)}", style="red", soft_wrap=True)
    lines = difflib.unified_diff(difference.expected.splitlines(), difference.found.splitlines(), lineterm="")
    for line in list(lines)[3:]:  # two lines of heading and the first @@
        style = {"-": "red", "+": "green"}.get(line[0], "")
        out.print(f"          {'…' if line.startswith('@@') else plain(line)}", style=style, soft_wrap=True)
