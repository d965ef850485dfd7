"""The targets of rule actions, embedded: tables, streams and topics in the cloud's own database and
directories.

Every `put`, `append` and `publish` is a plain function on a connection inside the caller's transaction, takes
a whole batch, and commits nothing itself: the worker commits all effects of a batch together with its place
in the inbox. What leaves the database later (objects, notifications) is done by `delivery` and `notifier`.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from core.errors import TidegateError


class UnknownTarget(TidegateError):
    """A rule names a table, stream or topic that the configuration does not have."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        names = ", ".join(sorted(known)) or "none"
        super().__init__(f"no {kind} {name!r}; add [targets.{kind}s.{name}] (configured: {names})")
        self.kind = kind
        self.name = name


@dataclass(frozen=True, slots=True)
class Rejected:
    """One element of a batch that the target refused for good; trying again would change nothing."""

    index: int
    reason: str
