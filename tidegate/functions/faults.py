"""What is wrong in a SAM template, gathered: each fault with its line, column and the words of who wrote it.

Keeps the faults and warnings of one template; `rules.files` has their places, and the words for what pydantic finds.
"""

from collections.abc import Iterator
from typing import TypeVar

from pydantic import ValidationError
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from core.errors import ConfigurationError
from rules.actions.fields import did_you_mean
from rules.errors import PROBLEMS_MAX, Problem
from rules.files import faults
from rules.files.cloudformation import TemplateReader
from rules.files.document import Document, Unreadable
from rules.files.intrinsics import function
from tidegate.functions.properties import Properties

P = TypeVar("P", bound=Properties)


class TemplateError(ConfigurationError):
    """Nothing of this template is deployed: `found` says why, in the order of the file."""

    def __init__(self, found: list[Problem]) -> None:
        super().__init__("template", [str(problem) for problem in found])
        self.found = tuple(found)


class Complaints:
    """The faults of one document; `reader` resolves what its texts stand for."""

    def __init__(self, document: Document, reader: TemplateReader) -> None:
        self.document = document
        self.reader = reader
        self.problems: list[Problem] = []  # of rules, which have places of their own

    def error(self, reason: str, at: Node | None, offset: int = 0) -> None:
        """Complain about what stands at a node, in a text at its character `offset`."""
        if isinstance(at, ScalarNode) and function(at) is None:
            place = self.document.inside(at, offset)
        else:
            place = at.start_mark.index if at is not None else 0
        self.reader.complain(Unreadable(reason, place))

    def warning(self, reason: str, at: Node) -> None:
        """Say what may not be what was meant."""
        self.reader.complain(Unreadable(reason, at.start_mark.index, "warning"))

    @property
    def failed(self) -> bool:
        """Whether one of them is an error."""
        return any(problem.severity == "error" for problem in self.all())

    def all(self) -> list[Problem]:
        """Every fault and warning, in the order of the file."""
        text, name = self.document.text, self.document.name
        found = [Problem.at(name, text, each.at, each.reason, each.severity) for each in self.reader.problems]
        told = {(problem.line, problem.column, problem.message): problem for problem in (*found, *self.problems)}
        return [told[key] for key in sorted(told)]

    def entries(self, node: Node) -> Iterator[tuple[str, Node]]:
        """Key and value of each entry of a mapping; complains about what is none, or has a key twice."""
        if not isinstance(node, MappingNode):
            self.error("must be a mapping of keys to values", node)
            return
        try:
            yield from self.document.entries(node)
        except Unreadable as error:
            self.reader.complain(error)

    def validated(self, model: type[P], node: Node, place: str, *more_keys: str) -> P | None:
        """What a mapping says, its texts resolved; None when something in it is wrong.

        `more_keys` are keys that whoever asks has taken out, for suggestions.
        """
        if not isinstance(node, MappingNode):
            self.error(f"{place} must be a mapping of keys to values", node)
            return None
        known = [*(field.alias or name for name, field in model.model_fields.items()), *model.IGNORED, *more_keys]
        kept = []
        for key, value in node.value:
            if key.value not in known:
                near = did_you_mean(str(key.value)[:80], known)
                self.error(f"{place} has no {str(key.value)[:80]}{near}", key)
            elif key.value not in model.IGNORED:
                kept.append((key, value))
        before = len(self.reader.problems)
        resolved = self.reader.resolved(MappingNode(node.tag, kept, node.start_mark, node.end_mark))
        open_nodes: set[int] = set()
        settled = _settled(resolved, open_nodes)
        try:
            found = model.model_validate(self.document.value(settled))
            return found if len(self.reader.problems) == before else None
        except Unreadable as error:
            self.reader.complain(error)
        except ValidationError as error:
            for details in error.errors()[:PROBLEMS_MAX]:
                loc = tuple(step for step in details["loc"] if step != "[key]")  # pydantic's own mark
                of_key = len(loc) < len(details["loc"]) or faults.is_of_key(details)
                at = self.document.find(settled, loc, key=of_key)
                if id(at) not in open_nodes:
                    self.error(f"{'.'.join(map(str, (place, *loc)))}: {faults.words(details, model, str)}", at)
        return None


def _settled(node: Node, unresolved: set[int]) -> Node:
    """The node with an empty text where a function is left; `unresolved` gets the identities of those texts."""
    if function(node) is not None:
        empty = ScalarNode("tag:yaml.org,2002:str", "", node.start_mark, node.end_mark)
        unresolved.add(id(empty))
        return empty
    if isinstance(node, MappingNode):
        pairs = [(key, _settled(value, unresolved)) for key, value in node.value]
        return MappingNode(node.tag, pairs, node.start_mark, node.end_mark)
    if isinstance(node, SequenceNode):
        items = [_settled(item, unresolved) for item in node.value]
        return SequenceNode(node.tag, items, node.start_mark, node.end_mark)
    return node
