"""CloudFormation and SAM templates as rules files: `AWS::IoT::TopicRule` resources and `IoTRule` events.

A template's rules become the same entries as those of every other form: keys get the names of AWS's API
(`TopicRulePayload` spells them with a capital letter), texts are resolved (`rules.files.intrinsics`), and all values
are texts, because CloudFormation takes `"true"` for true. A role that cannot be resolved is left out, since
roles mean nothing here. Other resources are only looked at for their names.

A rule with a `Condition` is refused: whether it exists is decided when a stack is created.
"""

import difflib
from collections.abc import Iterator

from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from rules.actions.fields import did_you_mean
from rules.errors import PROBLEMS_MAX
from rules.files.arns import Account
from rules.files.document import Document, Unreadable, member
from rules.files.forms import Entry, Form, stem
from rules.files.intrinsics import Resolver, function, is_no_value, kind

_STR = "tag:yaml.org,2002:str"
_NULL = "tag:yaml.org,2002:null"
_MAP = "tag:yaml.org,2002:map"
_SEQ = "tag:yaml.org,2002:seq"

RULE = "AWS::IoT::TopicRule"
FUNCTION = "AWS::Serverless::Function"
_EVENT = "IoTRule"
_ALIAS = "AutoPublishAlias"
_NEAR = 0.85  # of difflib: a slip of the pen, and not one of the types that are really called something like it
_PSEUDO = "${AWS::"

_RULE_KEYS = ("RuleName", "Tags", "TopicRulePayload")
_EVENT_KEYS = ("Sql", "AwsIotSqlVersion")
VERBATIM = frozenset(("ClientProperties", "Tags"))  # below them stand names of Kafka's and the user's


def spelled(name: str) -> str:
    """CloudFormation's spelling of a name of AWS IoT's API: `TargetArn` for `targetArn`, `DynamoDBv2`."""
    return name[:1].upper() + name[1:]


TEMPLATE = Form(spelled=spelled, typed=False)


def is_template(root: Node | None) -> bool:
    """Whether a document is a template, and not a file of rules of which one is called Resources."""
    resources = member(root, "Resources")
    if isinstance(resources, MappingNode) and member(resources, "sql") is None:
        return True
    return member(root, "AWSTemplateFormatVersion") is not None


def entries(document: Document, account: Account) -> tuple[list[Entry], list[Unreadable]]:
    """The rules of a template, and what cannot be resolved in others. Raises Unreadable."""
    reader = TemplateReader(document, account)
    return list(reader.entries()), reader.problems


class TemplateReader:
    """Reads the `resources` of one template; `problems` grows on the way, and beyond PROBLEMS_MAX reading ends."""

    def __init__(self, document: Document, account: Account) -> None:
        self.problems: list[Unreadable] = []
        self._document = document
        self.resources = self._section("Resources")
        parameters, stack = self._section("Parameters"), stem(document.name)
        self._resolver = Resolver(document, parameters, self.resources, account, stack)

    def entries(self) -> Iterator[Entry]:
        """The rules in the order of the template, those left out of which something cannot be resolved."""
        for logical_id, resource in self.resources.items():
            found = len(self.problems)
            if found >= PROBLEMS_MAX:
                return
            made: list[Entry] = []
            try:
                if kind(resource) == RULE:
                    made = [self.rule(logical_id, resource)]
                elif kind(resource) == FUNCTION:
                    made = list(self.events(logical_id, resource))
                else:
                    self._doubt(logical_id, resource)
            except Unreadable as error:
                self.complain(error)
            if not any(problem.severity == "error" for problem in self.problems[found:]):
                yield from made

    def resolved(self, node: Node) -> Node:
        """The node with resolved texts and the names that it has; what cannot be resolved is a problem and stays."""
        return self._rewritten(node, verbatim=True)

    def name(self, logical_id: str) -> str:
        """What a resource is called, see `rules.files.intrinsics`. Raises Unreadable."""
        return self._resolver.name(logical_id, self.at(logical_id))

    def _section(self, name: str) -> dict[str, Node]:
        node = member(self._document.root, name)
        return dict(self._document.entries(node)) if isinstance(node, MappingNode) else {}

    # ── resources ───────────────────────────────────────────────────────────────────────────────────────────

    def rule(self, logical_id: str, resource: Node) -> Entry:
        """The rule that a TopicRule resource is. Raises Unreadable."""
        self._refuse_condition(resource)
        written = self._properties(resource, self.at(logical_id))
        properties = self._keys(written, _RULE_KEYS, "a rule")
        if "TopicRulePayload" not in properties:
            raise Unreadable("Properties.TopicRulePayload is missing", self.at(logical_id))
        name, name_at = logical_id, self.at(logical_id)
        if "RuleName" in properties and not is_no_value(properties["RuleName"]):
            text = self._resolver.text(properties["RuleName"])
            name, name_at = text.value, text.start_mark.index
        return Entry(name, name_at, self._rewritten(properties["TopicRulePayload"]), TEMPLATE)

    def events(self, logical_id: str, resource: Node) -> Iterator[Entry]:
        """The rules that the IoTRule events of a function are. Raises Unreadable."""
        events = member(member(resource, "Properties"), "Events")
        for event_id, event in self._document.entries(events) if isinstance(events, MappingNode) else ():
            if kind(event) != _EVENT:
                self._doubt_type(event, _EVENT)
                continue
            self._refuse_condition(resource)
            written = self._properties(event, event.start_mark.index)
            properties = self._keys(written, _EVENT_KEYS, "an IoTRule event")
            name = self._called(logical_id, resource, event.start_mark.index)
            payload = [(_text(_api(key), value), self._rewritten(value)) for key, value in properties.items()]
            call = _mapping("functionArn", _text(name, event), event)
            actions = SequenceNode(_SEQ, [_mapping("lambda", call, event)], event.start_mark, event.end_mark)
            payload.append((_text("actions", event), actions))
            node = MappingNode(_MAP, payload, event.start_mark, event.end_mark)
            yield Entry(logical_id + event_id, event.start_mark.index, node, TEMPLATE)

    def _called(self, logical_id: str, resource: Node, at: int) -> str:
        """What the rule of an event calls: the function, or the alias that is published with each version of it."""
        name = self._resolver.name(logical_id, at)
        defaults = member(member(self._document.root, "Globals"), "Function")
        alias = member(member(resource, "Properties"), _ALIAS) or member(defaults, _ALIAS)
        return name if alias is None or is_no_value(alias) else f"{name}:{self._resolver.text(alias).value}"

    def _doubt(self, logical_id: str, resource: Node) -> None:
        """Complain about what may be a rule that nobody would miss. Raises Unreadable for what makes resources."""
        if logical_id.startswith("Fn::"):
            name = "::".join(logical_id.split("::")[:2])
            reason = f"{name[:40]} makes resources when a stack is created, and not here; write its rules out"
            raise Unreadable(reason, self.at(logical_id))
        for known in (RULE, FUNCTION):
            self._doubt_type(resource, known)

    def _doubt_type(self, holder: Node, known: str) -> None:
        written = kind(holder)
        if difflib.get_close_matches(written[:80].lower(), [known.lower()], cutoff=_NEAR):
            reason = f"this is not read, because its Type is {written[:80]!r}; did you mean {known!r}?"
            at = member(holder, "Type")
            assert at is not None
            self.complain(Unreadable(reason, at.start_mark.index, "warning"))

    def _properties(self, holder: Node, at: int) -> Node:
        properties = member(holder, "Properties")
        if properties is None:
            raise Unreadable("Properties is missing", at)
        return properties

    def _keys(self, node: Node, known: tuple[str, ...], whose: str) -> dict[str, Node]:
        """The members of a mapping of which all keys must be `known`."""
        if not isinstance(node, MappingNode):
            raise Unreadable("must be a mapping of keys to values", node.start_mark.index)
        for key, _ in node.value:
            if key.value not in known:
                near = did_you_mean(key.value, known)
                self.complain(Unreadable(f"{whose} has no {str(key.value)[:80]}{near}", key.start_mark.index))
        return dict(self._document.entries(node))

    def complain(self, error: Unreadable) -> None:
        """Add a problem, unless there are enough."""
        if len(self.problems) < PROBLEMS_MAX:
            self.problems.append(error)

    def _refuse_condition(self, resource: Node) -> None:
        condition = member(resource, "Condition")
        if condition is not None:
            reason = "whether a rule with a Condition exists is known when a stack is created; take it away"
            raise Unreadable(reason, condition.start_mark.index)

    def at(self, logical_id: str) -> int:
        """Where the logical id of a resource stands."""
        section = member(self._document.root, "Resources")
        assert isinstance(section, MappingNode)
        return int(next(key.start_mark.index for key, _ in section.value if key.value == logical_id))

    # ── payloads ────────────────────────────────────────────────────────────────────────────────────────────

    def _rewritten(self, node: Node, *, verbatim: bool = False) -> Node:
        """The node with resolved texts and AWS's names; what cannot be resolved is a problem and stays."""
        if function(node) is not None:
            try:
                return self._resolver.text(node)
            except Unreadable as error:
                self.complain(error)
                return node
        if isinstance(node, MappingNode):
            pairs = [pair for key, value in node.value for pair in self._member(key, value, verbatim)]
            return MappingNode(node.tag, pairs, node.start_mark, node.end_mark)
        if isinstance(node, SequenceNode):
            items = [self._rewritten(item, verbatim=verbatim) for item in node.value if not is_no_value(item)]
            return SequenceNode(node.tag, items, node.start_mark, node.end_mark)
        if not isinstance(node, ScalarNode) or node.tag == _NULL:
            return node
        if _PSEUDO in node.value:
            found = node.value[node.value.index(_PSEUDO) :][:40].partition("}")[0]
            at = self._document.inside(node, node.value.index(_PSEUDO))
            self.complain(Unreadable(f"{found}}} stays as it is in a plain text; write !Sub before the text", at))
        return ScalarNode(_STR, node.value, node.start_mark, node.end_mark, node.style)

    def _member(self, key: Node, value: Node, verbatim: bool) -> Iterator[tuple[Node, Node]]:
        if is_no_value(value):
            return
        if not isinstance(key, ScalarNode):
            yield key, value  # whoever takes the value of the mapping complains
            return
        if not verbatim and not key.value[:1].isupper():
            near = spelled(key.value[:80])
            reason = f"in a template, names begin with a capital letter: {near}"
            self.complain(Unreadable(reason, key.start_mark.index))
            return
        if key.value == "RoleArn" and not self._is_resolved(value):
            return
        name = key.value if verbatim else _api(key.value)
        yield _text(name, key), self._rewritten(value, verbatim=verbatim or key.value in VERBATIM)

    def _is_resolved(self, node: Node) -> bool:
        try:
            self._resolver.text(node)
        except Unreadable:
            return False
        return True


def _api(name: str) -> str:
    return name[:1].lower() + name[1:]


def _text(text: str, at: Node) -> ScalarNode:
    return ScalarNode(_STR, text, at.start_mark, at.end_mark)


def _mapping(key: str, value: Node, at: Node) -> MappingNode:
    return MappingNode(_MAP, [(_text(key, at), value)], at.start_mark, at.end_mark)
