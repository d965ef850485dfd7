"""SAM templates: every `AWS::Serverless::Function` of one, as a version that can be deployed here.

A template written for AWS is read as it is; `Globals: Function:` counts, `!Ref` and its like are resolved as in rules
files (`rules.files.intrinsics`), paths are relative to the template. What SAM has and a box does not is told: silently
accepted (roles, tags), with a warning (a function URL), or refused, when the function would not do what was meant (a
container image, a Condition, a layer of somebody's account). All faults are told at once.

One function reads `tidegate.functions.described`. Will not open packages or install anything
(`tidegate.functions.deploying` does).
"""

from dataclasses import dataclass
from pathlib import Path

from yaml.nodes import MappingNode, Node, SequenceNode

from rules.actions.fields import did_you_mean
from rules.errors import Problem
from rules.files.arns import Account
from rules.files.cloudformation import FUNCTION, TemplateReader, is_template
from rules.files.document import Document, Unreadable, member
from rules.files.intrinsics import function, kind
from tidegate.functions.attached import Attached
from tidegate.functions.described import Described, FunctionReader
from tidegate.functions.faults import Complaints, TemplateError

_PLAIN_FUNCTION = "AWS::Lambda::Function"


@dataclass(slots=True)
class Template:
    """What a template says: its functions, and the warnings about it."""

    functions: list[Described]
    warnings: list[Problem]


def read(
    path: Path, text: str, account: Account, *,
    supported: frozenset[str] | None = None, only: frozenset[str] = frozenset(),
) -> Template:  # fmt: skip
    """The functions of the template `text` at `path`; with `only`, those with these logical ids or names.

    `supported` are the rule actions of the side that it is for, None for all. Raises TemplateError with every fault.
    """
    try:
        document = Document(str(path), text)
        if not is_template(document.root):
            raise Unreadable("this is no SAM template: it has no Resources", 0)
        reader = TemplateReader(document, account)
    except Unreadable as error:
        raise TemplateError([Problem.at(str(path), text, error.at, error.reason)]) from None
    complaints = Complaints(document, reader)
    found = _functions(complaints, path.parent, account, only)
    rules = Attached(complaints, supported)
    rules.read({each.logical_id: each.name for each in found})
    for each in found:
        each.rules = rules.text(each.name)
    if not found and not complaints.failed:
        complaints.error(f"there is no {FUNCTION} in this template", member(document.root, "Resources"))
    if complaints.failed:
        raise TemplateError(complaints.all())
    return Template(found, complaints.all())


def _functions(complaints: Complaints, directory: Path, account: Account, only: frozenset[str]) -> list[Described]:
    found: list[Described] = []
    known: list[str] = []
    defaults = member(member(complaints.document.root, "Globals"), "Function")
    for logical_id, resource in complaints.reader.resources.items():
        if kind(resource) == _PLAIN_FUNCTION:
            complaints.warning(f"{logical_id} is not deployed: write it as {FUNCTION}, with CodeUri", resource)
        if kind(resource) != FUNCTION:
            continue
        try:
            name = complaints.reader.name(logical_id)
        except Unreadable as error:
            complaints.reader.complain(error)
            continue
        known += [logical_id, name]
        if only and not only & {logical_id, name}:
            continue
        if any(name == other.name for other in found):
            complaints.error(f"{logical_id}: there is a function {name} already", resource)
        written = member(resource, "Properties")
        merged = _merged(defaults, written) if isinstance(written, MappingNode) else MappingNode("", [])
        found.append(FunctionReader(complaints, directory, account, logical_id, name).read(resource, merged))
    for wanted in sorted(only - set(known)):
        near = did_you_mean(wanted, known)
        complaints.error(f"there is no function {wanted} in this template{near}", complaints.document.root)
    return found


def _merged(defaults: Node | None, written: MappingNode) -> MappingNode:
    """A function's properties over the template's defaults: maps merged, lists joined, everything else replaced."""
    if not isinstance(defaults, MappingNode):
        return written
    pairs = {key.value: (key, value) for key, value in defaults.value}
    for key, value in written.value:
        before = pairs.get(key.value)
        if before is not None:
            value = _joined(before[1], value)
        pairs[key.value] = (key, value)
    return MappingNode(written.tag, list(pairs.values()), written.start_mark, written.end_mark)


def _joined(before: Node, value: Node) -> Node:
    plain = function(before) is None and function(value) is None
    if plain and isinstance(before, MappingNode) and isinstance(value, MappingNode):
        return _merged(before, value)
    if plain and isinstance(before, SequenceNode) and isinstance(value, SequenceNode):
        return SequenceNode(value.tag, [*before.value, *value.value], value.start_mark, value.end_mark)
    return value
