"""What can be wrong with a rule, always with the place: in a statement, in a file, or while one message is
evaluated.

    TidegateError
    ├── SqlError            one fault in one SQL text or template; line and column inside that text
    ├── RulesError          every fault of every rules file (a ConfigurationError: commands exit with 78)
    └── EvaluationError     one rule could not be evaluated for one message; the next message is not affected
        ├── CallFailed      because a function that calls out was not answered
        └── ActionFailed    an action's target refuses the output, and would refuse it again
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Self, TypeAlias

from core.errors import ConfigurationError, TidegateError

PROBLEMS_MAX = 200  # more than anyone reads at once
EXCERPT_CHARS = 100  # one terminal line with its margin


Severity: TypeAlias = Literal["error", "warning"]


class SqlError(TidegateError, ValueError):
    """A statement or template that cannot be compiled. `line` and `column` count from 1, in characters."""

    def __init__(self, message: str, line: int, column: int) -> None:
        super().__init__(f"{line}:{column}: {message}")
        self.message = message
        self.line = line
        self.column = column

    @classmethod
    def at(cls, text: str, offset: int, message: str) -> Self:
        """The error for character `offset` of `text`."""
        return cls(message, *line_and_column(text, offset))

    def offset_in(self, text: str) -> int:
        """The character of `text` that line and column mean; `text` is what was compiled."""
        return sum(len(line) + 1 for line in text.split("\n")[: self.line - 1]) + self.column - 1


class EvaluationError(TidegateError):
    """A rule's statement or template failed for one message: its result is too large or nested too deeply."""


class CallFailed(EvaluationError):
    """get_secret(), aws_lambda() or another function that calls out got no answer that could be used."""


class ActionFailed(EvaluationError):
    """What an action was to act on refuses the output for good: trying again would change nothing."""


def failure(error: Exception) -> str:
    """What to tell people about an evaluation that `error` ended."""
    if isinstance(error, RecursionError):
        return "the payload is nested too deeply"
    return str(error) if isinstance(error, EvaluationError) else f"{type(error).__name__}: {error}"


@dataclass(frozen=True, slots=True)
class Problem:
    """One fault in a rules file. `excerpt` is that line and, below it, a caret under the column.

    With an error the file cannot be used; a warning is about a rule that can run, but may not do what was meant.
    """

    file: str
    line: int
    column: int
    message: str
    excerpt: str = ""
    severity: Severity = "error"

    @classmethod
    def at(cls, file: str, text: str, offset: int, message: str, severity: Severity = "error") -> Self:
        """The problem at character `offset` of `text`, which is what `file` holds."""
        line, column = line_and_column(text, offset)
        return cls(file, line, column, message, _excerpt(text, offset, column), severity)

    def __str__(self) -> str:
        kind = "" if self.severity == "error" else f"{self.severity}: "
        return f"{self.file}:{self.line}:{self.column}: {kind}{self.message}"


class RulesError(ConfigurationError):
    """No rule of these files may run: `found` says why, in the order of the files."""

    def __init__(self, found: Sequence[Problem]) -> None:
        super().__init__("rules", [str(problem) for problem in found])
        self.found = tuple(found)


def line_and_column(text: str, offset: int) -> tuple[int, int]:
    """Where character `offset` of `text` stands; both count from 1."""
    return text.count("\n", 0, offset) + 1, offset - text.rfind("\n", 0, offset)


def _excerpt(text: str, offset: int, column: int) -> str:
    end = text.find("\n", offset)
    source = text[offset - column + 1 : end if end >= 0 else None].rstrip("\r").replace("\t", " ")
    first = max(0, column - 1 - EXCERPT_CHARS * 2 // 3)
    return f"{source[first : first + EXCERPT_CHARS]}\n{' ' * (column - 1 - first)}^"
