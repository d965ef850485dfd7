"""What stands in texts of rules files: the good rules, and everything there is to say."""

from collections.abc import Mapping

from rules.engine import Rule
from rules.errors import Problem
from rules.files import survey
from rules.files.arns import NOWHERE, Account


def read(
    texts: Mapping[str, str], supported: frozenset[str] | None = None, *, account: Account = NOWHERE
) -> tuple[list[Rule], list[Problem]]:
    """The rules without errors, and every error and warning."""
    found = survey(texts, supported, account=account)
    return found.rules, found.problems
