"""From the texts of rules files to a RuleSet, or to every fault in all of them at once.

A file is YAML or JSON and maps rule names to what AWS calls a topic rule payload:

    Overheat:
      sql: SELECT * FROM 'plant/+/+/telemetry' WHERE temperature > 105
      actions:
        - republish: { topic: "plant/${topic(2)}/alarm", qos: 1 }

What AWS's own tools print and take is read too (`rules.files.forms`), and so are CloudFormation and SAM templates
(`rules.files.cloudformation`).

Will not open files (`core.files` does, and leaves out the tests that lie beside them). All or nothing: one error
anywhere and no rule of the set runs, so that nobody runs half of what was meant.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from rules.engine import Rule, RuleSet
from rules.errors import PROBLEMS_MAX, Problem, RulesError
from rules.files import cloudformation, forms
from rules.files.arns import NOWHERE, Account
from rules.files.document import Document, Unreadable
from rules.files.forms import Entry
from rules.files.reader import RuleReader, Source


@dataclass(slots=True)
class Survey:
    """What stands in rules files: the rules that can run, everything there is to say, where each rule is."""

    rules: list[Rule] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    sources: dict[str, Source] = field(default_factory=dict)  # by the rule's name


def parse(
    texts: Mapping[str, str],
    *,
    supported: frozenset[str],
    calls: frozenset[str] | None = None,
    account: Account = NOWHERE,
) -> RuleSet:
    """The rules of all `texts` (file name → YAML or JSON), for a side that can run the `supported` actions.

    `calls` are the functions that call out which it can run (None: all), `account` is what `AWS::Region` and its like
    mean in a template. Raises RulesError with every error, each with its file, line and column; warnings are left out.
    """
    found = survey(texts, supported, calls=calls, account=account)
    errors = [problem for problem in found.problems if problem.severity == "error"]
    if errors:
        raise RulesError(errors)
    return RuleSet(found.rules)


def survey(
    texts: Mapping[str, str],
    supported: frozenset[str] | None = None,
    *,
    calls: frozenset[str] | None = None,
    account: Account = NOWHERE,
) -> Survey:
    """The rules without errors, where each stands, and every error and warning, in the order of the files.

    `supported` None: all actions.
    """
    surveyor = _Surveyor(supported, calls, account)
    for file, text in texts.items():
        surveyor.add(file, text)
    return surveyor.found


class _Surveyor:
    """Gathers what stands in one file after the other; beyond PROBLEMS_MAX errors it reads no more."""

    def __init__(self, supported: frozenset[str] | None, calls: frozenset[str] | None, account: Account) -> None:
        self.found = Survey()
        self._supported = supported
        self._calls = calls
        self._account = account
        self._errors = 0
        self._seen: dict[str, str] = {}  # rule name → file and line

    def add(self, file: str, text: str) -> None:
        """Read one file."""
        if self._errors > PROBLEMS_MAX:
            return
        try:
            document = Document(file, text)
            entries, unreadable = _entries(document, self._account)
        except Unreadable as error:
            entries, unreadable = [], [error]
        self._tell([Problem.at(file, text, error.at, error.reason, error.severity) for error in unreadable])
        for entry in entries:
            if self._errors >= PROBLEMS_MAX:
                self._tell([Problem.at(file, text, entry.name_at, "too many problems: the rest is not read")])
                return
            self._read(RuleReader(document, entry, self._supported, self._calls))

    def _read(self, reader: RuleReader) -> None:
        reader.check_name(self._seen)
        rule = reader.read()
        errors = self._tell(sorted(reader.problems, key=lambda problem: (problem.line, problem.column)))
        if rule is not None and not errors:
            self.found.rules.append(rule)
            self.found.sources[rule.name] = reader.source

    def _tell(self, problems: list[Problem]) -> int:
        """Add problems; how many of them are errors."""
        errors = sum(problem.severity == "error" for problem in problems)
        self.found.problems += problems
        self._errors += errors
        return errors


def _entries(document: Document, account: Account) -> tuple[list[Entry], list[Unreadable]]:
    if cloudformation.is_template(document.root):
        return cloudformation.entries(document, account)
    return forms.entries(document), []
