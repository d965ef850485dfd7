"""Policy documents as files: NAME.json or NAME.yaml in one directory, each the policy NAME.

A document is what AWS IoT takes as one (AWS IoT Core Developer Guide, "AWS IoT Core policies"), with nothing in it that
is not understood: a misspelt action that is ignored would be a hole nobody sees. All or nothing: with a fault in one
file, `read` raises every fault of all of them, and whoever asked keeps what it had.

The policies `default` and `anonymous` are built in; a file of that name takes their place.
"""

import difflib
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from yaml.reader import ReaderError

from core.errors import ConfigurationError
from core.files import read_texts
from devices.conditions import Condition
from devices.patterns import Pattern
from devices.policies import ACTIONS, Policy, PolicySet, Resource, Statement

T = TypeVar("T")

DOCUMENT_BYTES_MAX = 65_536  # AWS IoT takes 2,048
STATEMENTS_MAX = 100
VALUES_MAX = 1_000  # actions, resources or values of one condition in a list
NESTING_MAX = 16  # a policy needs seven
PROBLEMS_MAX = 100  # more than anyone reads at once
VERSION = "2012-10-17"

# What AWS IoT has too, and nothing here asks about: allowing or denying it changes nothing.
ACTIONS_ELSEWHERE = (
    "iot:AssumeRoleWithCertificate",
    "iot:DeleteConnection",
    "iot:GetRetainedMessage",
    "iot:ListRetainedMessages",
    "iotjobsdata:DescribeJobExecution",
    "iotjobsdata:GetPendingJobExecutions",
    "iotjobsdata:StartNextPendingJobExecution",
    "iotjobsdata:UpdateJobExecution",
)
NOT_IN_AWS_IOT = frozenset(("NotAction", "NotResource", "Principal", "NotPrincipal"))

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_TAG = "tag:yaml.org,2002:"

BUILT_IN = {
    "default": """\
Version: "2012-10-17"
Statement:
  - Sid: ConnectUnderItsOwnName
    Effect: Allow
    Action: iot:Connect
    Resource: "client/${iot:Connection.Thing.ThingName}"
  - Sid: ConnectUnderANameOfNoOther
    Effect: Allow
    Action: iot:Connect
    Resource:
      - "client/${iot:Connection.Thing.ThingName}-*"
      - "client/tidegate-edge-${iot:Connection.Thing.ThingName}"
      - "client/auto-*"
    Condition: { Bool: { "tidegate:ClientIdIsThing": "false" } }
  - Sid: OrdinaryTopics
    Effect: Allow
    Action: [iot:Publish, iot:RetainPublish, iot:Receive, iot:Subscribe]
    Resource: ["topic/*", "topicfilter/*"]
    Condition: { StringNotLike: { "tidegate:Topic": "$*" } }
  - Sid: BasicIngest
    Effect: Allow
    Action: [iot:Publish, iot:RetainPublish]
    Resource: "topic/$aws/rules/*"
    Condition: { StringNotLike: { "tidegate:Topic": "$aws/rules/*/$*" } }
  - Sid: ItsOwnShadows
    Effect: Allow
    Action:
      - iot:Publish
      - iot:Receive
      - iot:Subscribe
      - iot:GetThingShadow
      - iot:UpdateThingShadow
      - iot:DeleteThingShadow
      - iot:ListNamedShadowsForThing
    Resource:
      - "topic/$aws/things/${iot:Connection.Thing.ThingName}/shadow/*"
      - "topicfilter/$aws/things/${iot:Connection.Thing.ThingName}/shadow/*"
      - "thing/${iot:Connection.Thing.ThingName}"
      - "thing/${iot:Connection.Thing.ThingName}/*"
""",
    "anonymous": """\
Version: "2012-10-17"
Statement:
  - Sid: ConnectUnderNobodysName
    Effect: Allow
    Action: iot:Connect
    Resource: "client/*"
    Condition: { Bool: { "tidegate:ClientIdIsThing": "false" } }
  - Sid: AllButTopicsOfTheServer
    Effect: Allow
    Action: [iot:Publish, iot:RetainPublish, iot:Receive, iot:Subscribe]
    Resource: ["topic/*", "topicfilter/*"]
    Condition: { StringNotLike: { "tidegate:Topic": ["$aws/*", "$tidegate/*"] } }
  - Sid: BasicIngest
    Effect: Allow
    Action: [iot:Publish, iot:RetainPublish]
    Resource: "topic/$aws/rules/*"
    Condition: { StringNotLike: { "tidegate:Topic": "$aws/rules/*/$*" } }
""",
}


def read(directory: Path | None) -> PolicySet:
    """The built-in policies and those of `directory`. Raises ConfigurationError with every fault in every file."""
    policies = {name: parse(name, text) for name, text in BUILT_IN.items()}
    problems: list[str] = []
    seen: dict[str, str] = {}
    for file, text in (read_texts(directory) if directory is not None else {}).items():
        name = Path(file).stem
        if name in seen:
            problems.append(f"{file}:1:1: {seen[name]} is the policy {name} already")
            continue
        seen[name] = file
        try:
            policies[name] = parse(name, text, file)
        except ConfigurationError as error:
            problems += error.problems
    if problems:
        raise ConfigurationError("policies", problems)
    return policies


def parse(name: str, text: str, file: str = "") -> Policy:
    """The policy in one document. Raises ConfigurationError with every fault, each with line and column.

    An empty document is a policy that allows nothing.
    """
    reader = _Reader(file or name, text)
    if not _NAME.fullmatch(name):
        reader.complain("a policy's name, before .json or .yaml, is 1 to 128 letters, digits and . _ - after the first")
    statements = reader.read()
    if reader.problems:
        raise ConfigurationError("policies", reader.problems)
    return Policy(name, tuple(statements), file)


class _Loader(yaml.SafeLoader):
    """PyYAML's composer, bounded: no aliases, so that no text can unfold into more than it is."""

    depth = 0

    def compose_node(self, parent: Node | None, index: Any) -> Node | None:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.MarkedYAMLError(problem="a text that begins with * needs quotes", problem_mark=mark)
        self.depth += 1
        if self.depth > NESTING_MAX:
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.MarkedYAMLError(problem=f"more than {NESTING_MAX} levels", problem_mark=mark)
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


class _Reader:
    """Reads one document; `problems` is what is wrong with it."""

    def __init__(self, file: str, text: str) -> None:
        self.problems: list[str] = []
        self._file = file
        self._text = text

    def complain(self, message: str, node: Node | None = None) -> None:
        """Note a fault at the start of a node, or of the file."""
        mark = node.start_mark if node is not None else None
        self._complain_at(message, mark.line + 1 if mark else 1, mark.column + 1 if mark else 1)

    def _complain_at(self, message: str, line: int, column: int) -> None:
        if len(self.problems) < PROBLEMS_MAX:
            self.problems.append(f"{self._file}:{line}:{column}: {message}")

    def read(self) -> list[Statement]:
        """The statements, as many as can be read."""
        root = self._root()
        if root is None:
            return []
        statements: list[Node] = []
        for key, name, value in self._entries(root, "a policy", ("Version", "Id", "Statement")):
            if name == "Version" and self._text_of(value) != VERSION:
                self.complain(f'Version must be "{VERSION}"', value)
            elif name == "Statement":
                statements = value.value if isinstance(value, SequenceNode) else [value]
                if len(statements) > STATEMENTS_MAX:
                    self.complain(f"more than {STATEMENTS_MAX} statements", key)
        found = (self._statement(index, node) for index, node in enumerate(statements[:STATEMENTS_MAX]))
        return [statement for statement in found if statement is not None]

    def _root(self) -> Node | None:
        if len(self._text.encode(errors="replace")) > DOCUMENT_BYTES_MAX:
            self.complain(f"larger than {DOCUMENT_BYTES_MAX:,} bytes")
            return None
        # YAML forbids tabs between tokens; a tab inside a JSON string is written \t.
        text = self._text.replace("\t", " ") if self._file.endswith(".json") else self._text
        try:
            root: Node | None = _Loader(text).get_single_node()
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            reason = f"{error.problem or error.context}"
            if error.context == "while scanning an alias":
                reason = "a text that begins with * needs quotes"
            self._complain_at(reason, mark.line + 1 if mark else 1, mark.column + 1 if mark else 1)
        except (ReaderError, ValueError) as error:  # a character, or an escape, that YAML does not have
            self.complain(f"not YAML or JSON: {str(error).splitlines()[0]}")
        else:
            if root is not None:
                self._require(root, "a policy", ("Version", "Statement"))
            return root
        return None

    # -- statements ---------------------------------------------------------------------------------------------------

    def _statement(self, index: int, node: Node) -> Statement | None:
        before = len(self.problems)
        known = ("Sid", "Effect", "Action", "Resource", "Condition")
        sid, effect = "", ""
        actions: frozenset[str] = frozenset()
        resources: list[Resource] = []
        conditions: list[Condition] = []
        for _, name, value in self._entries(node, "a statement", known):
            if name == "Sid":
                sid = self._text_of(value) or ""
            elif name == "Effect":
                effect = self._text_of(value) or ""
                if effect not in ("Allow", "Deny"):
                    self.complain("Effect must be Allow or Deny", value)
            elif name == "Action":
                actions = frozenset().union(*self._each(value, "Action", _actions))
            elif name == "Resource":
                resources = self._each(value, "Resource", Resource)
            elif name == "Condition":
                conditions = self._conditions(value)
        self._require(node, "a statement", ("Effect", "Action", "Resource"))
        if len(self.problems) > before:
            return None
        line = node.start_mark.line + 1
        return Statement(index, sid, effect == "Allow", actions, tuple(resources), tuple(conditions), line)

    def _conditions(self, node: Node) -> list[Condition]:
        conditions = []
        for operator_node, operator, keys in self._entries(node, "Condition"):
            for key_node, key, values in self._entries(keys, operator):
                listed = [text for _, text in self._texts(values, key)]
                try:
                    conditions.append(Condition(operator, key, listed))
                except ValueError as error:
                    self.complain(str(error), operator_node if str(error).startswith("operator") else key_node)
        return conditions

    def _each(self, node: Node, what: str, make: Callable[[str], T]) -> list[T]:
        """What `make` makes of each text; its ValueError becomes a problem."""
        made = []
        for item, text in self._texts(node, what):
            try:
                made.append(make(text))
            except ValueError as error:
                self.complain(f"{what} {text[:80]!r}: {error}", item)
        return made

    # -- nodes --------------------------------------------------------------------------------------------------------

    def _entries(self, node: Node, what: str, known: tuple[str, ...] = ()) -> Iterator[tuple[Node, str, Node]]:
        """Key node, key and value node; with `known`, the keys that there are."""
        if not isinstance(node, MappingNode):
            self.complain(f"{what} is a mapping, in {{ }}", node)
            return
        seen: set[str] = set()
        for key, value in node.value:
            name = self._text_of(key)
            if name is None:
                continue
            if name in seen:
                self.complain(f"{name[:40]!r} stands here twice", key)
            elif name in NOT_IN_AWS_IOT and known:
                self.complain(f"AWS IoT policies have no {name}; write Action and Resource", key)
            elif known and name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}"
                self.complain(f"{what} has no {name[:40]!r}; {hint}", key)
            else:
                yield key, name, value
            seen.add(name)

    def _require(self, node: Node, what: str, names: tuple[str, ...]) -> None:
        if isinstance(node, MappingNode):
            written = {key.value for key, _ in node.value if isinstance(key, ScalarNode)}
            written |= {"Action"} if "NotAction" in written else set()  # that was complained about
            written |= {"Resource"} if "NotResource" in written else set()
            for name in names:
                if name not in written:
                    self.complain(f"{what} needs {name}", node)

    def _texts(self, node: Node, what: str) -> Iterator[tuple[Node, str]]:
        """One text, or a list of them."""
        items = node.value if isinstance(node, SequenceNode) else [node]
        if not items:
            self.complain(f"{what} is an empty list", node)
        if len(items) > VALUES_MAX:
            self.complain(f"{what} has more than {VALUES_MAX:,} values", node)
        for item in items[:VALUES_MAX]:
            text = self._text_of(item)
            if text is not None:
                yield item, text

    def _text_of(self, node: Node) -> str | None:
        """The text of a scalar as it is written: `true`, `10` and `2012-10-17` need no quotes."""
        if not isinstance(node, ScalarNode) or node.tag == f"{_TAG}null" or not node.tag.startswith(_TAG):
            self.complain("this must be text", node)
            return None
        try:  # JSON writes characters beyond 16 bits as two escapes, which YAML reads as two halves
            return str(node.value).encode("utf-16", "surrogatepass").decode("utf-16")
        except UnicodeDecodeError:
            self.complain("half a character: a surrogate without its other half", node)
            return None


def _actions(text: str) -> frozenset[str]:
    """The actions that a text with wildcards names. Raises ValueError when there are none."""
    if "${" in text:
        raise ValueError("variables are for Resource and Condition")
    glob = Pattern(text.lower()).bind(lambda _: None)
    if glob is not None:
        found = [action for action in (*ACTIONS, *ACTIONS_ELSEWHERE) if glob.matches(action.lower())]
        if found:
            return frozenset(found)
    near = difflib.get_close_matches(text, ACTIONS, n=1)
    raise ValueError("no such action; " + (f"did you mean {near[0]}?" if near else f"known: {', '.join(ACTIONS)}"))
