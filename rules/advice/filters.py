"""Topic filters that hear nothing, or not what they look as if they did."""

from collections.abc import Iterator

from core.topics import BASIC_INGEST
from rules.advice.finding import SQL, Finding
from rules.engine import Rule

# Second levels of AWS's reserved topics, below `$aws`.
_RESERVED = frozenset(("certificates", "device_location", "events", "jobs", "provisioning-templates", "things"))


def advise(rule: Rule) -> Iterator[Finding]:
    """What is wrong with the FROM of a rule."""
    source = rule.statement.source
    if source is None:
        return
    at = rule.sql.index("'", rule.statement.source_span[0])
    for code, message, suggestion in _faults(source):
        yield Finding(rule.name, code, SQL, message, suggestion, at)


def _faults(source: str) -> Iterator[tuple[str, str, str]]:
    levels = source.split("/")
    if source.startswith(BASIC_INGEST):
        yield (
            "never-hears", f"no rule hears topics of Basic Ingest ({BASIC_INGEST}…) by its FROM",
            "publish to $aws/rules/<name of the rule>/…, and the rule hears it whatever its FROM says",
        )  # fmt: skip
    if levels[0] in ("+", "#") and levels[2:] and levels[1] in _RESERVED:
        reserved = f"$aws/{'/'.join(levels[1:])}"
        message = f"'{levels[0]}' in the first place does not hear topics that begin with $, so no {reserved}"
        yield "not-reserved", message, f"if that is meant, write '{reserved}'"
    if "*" in levels:
        right = "/".join("+" if level == "*" else level for level in levels)
        yield "literal-star", "* is no wildcard in a topic filter: this hears levels named *", f"write '{right}'"
    if source != source.strip():
        yield "blank", "the filter begins or ends with a blank, and hears only topics that do", "remove it"
    empty = [position for position, level in enumerate(levels) if not level]
    if empty:
        where = "begins with /" if 0 in empty else "ends with /" if len(levels) - 1 in empty else "has // in it"
        right = "/".join(level for level in levels if level)
        yield "empty-level", f"the filter {where}: it hears topics with an empty level only", f"is '{right}' meant?"
