"""What `!Ref`, `!Sub`, `!GetAtt` and `!Join` of a CloudFormation template stand for, where the template itself says it.

Known are: parameters with a default, the pseudo parameters of the account, and the resources of the template. A
resource is its name: the property that names it (`TableName`, `TopicName`, …) or else its logical id, so that `!Ref`
gives the bare name that is looked up here, also where AWS would give an ARN or a URL. `!GetAtt X.Arn` gives an ARN.
Everything else (`!If`, `!ImportValue`, a parameter without default) is known when a stack is created, and refused.

Texts that were put together are `Made` nodes, so a fault in a substituted statement is found in its file.

Bounds: TEXT_CHARS_MAX for each text; a resource may be named after others, DEPTH_MAX deep, but not after itself.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from rules.actions.fields import did_you_mean
from rules.files import arns
from rules.files.arns import Account
from rules.files.document import Document, Made, Piece, Unreadable, member

TEXT_CHARS_MAX = 131_072  # as long as a rule may be

DEPTH_MAX = 32  # names made of names; a template needs two

NO_VALUE = "AWS::NoValue"

# Types of resources whose names rules need: the property that names one, the form of its ARN.
RESOURCES = {
    "AWS::DynamoDB::Table": ("TableName", "arn:{partition}:dynamodb:{region}:{account_id}:table/{name}"),
    "AWS::Events::EventBus": ("Name", "arn:{partition}:events:{region}:{account_id}:event-bus/{name}"),
    "AWS::IAM::Role": ("RoleName", arns.ROLE),
    "AWS::IoT::TopicRule": ("RuleName", "arn:{partition}:iot:{region}:{account_id}:rule/{name}"),
    "AWS::IoTAnalytics::Channel": ("ChannelName", arns.CHANNEL),
    "AWS::Kinesis::Stream": ("Name", "arn:{partition}:kinesis:{region}:{account_id}:stream/{name}"),
    "AWS::KinesisFirehose::DeliveryStream": (
        "DeliveryStreamName", "arn:{partition}:firehose:{region}:{account_id}:deliverystream/{name}",
    ),
    "AWS::Lambda::Function": ("FunctionName", arns.FUNCTION),
    "AWS::Logs::LogGroup": ("LogGroupName", "arn:{partition}:logs:{region}:{account_id}:log-group:{name}:*"),
    "AWS::S3::Bucket": ("BucketName", "arn:{partition}:s3:::{name}"),
    "AWS::SNS::Topic": ("TopicName", arns.TOPIC),
    "AWS::SQS::Queue": ("QueueName", arns.QUEUE),
    "AWS::Serverless::Function": ("FunctionName", arns.FUNCTION),
    "AWS::Serverless::SimpleTable": ("TableName", "arn:{partition}:dynamodb:{region}:{account_id}:table/{name}"),
    "AWS::Serverless::StateMachine": ("Name", "arn:{partition}:states:{region}:{account_id}:stateMachine:{name}"),
    "AWS::StepFunctions::StateMachine": (
        "StateMachineName", "arn:{partition}:states:{region}:{account_id}:stateMachine:{name}",
    ),
}  # fmt: skip
_ARN_ATTRIBUTES = frozenset(("Arn", "TopicArn"))

# Types of parameters.
_STORED = "AWS::SSM::Parameter::Value<"  # the Default is the name under which the value is stored
_LISTS = ("CommaDelimitedList", "List<")

_VARIABLE = re.compile(r"\$\{(!?)([^}]*)\}")
_NAME = re.compile(r"[A-Za-z0-9]+(::[A-Za-z]+)?")
_ATTRIBUTE = re.compile(r"([A-Za-z0-9]+)\.([A-Za-z0-9.]+)")


def function(node: Node) -> tuple[str, Node] | None:
    """Name and argument of the function that a node calls, `("Fn::Sub", …)`; None when it calls none."""
    if node.tag.startswith("!"):
        name = node.tag[1:]
        return (name if name in ("Ref", "Condition") else f"Fn::{name}"), node
    if isinstance(node, MappingNode) and len(node.value) == 1:
        key, argument = node.value[0]
        if isinstance(key, ScalarNode) and (key.value in ("Ref", "Condition") or key.value.startswith("Fn::")):
            return key.value, argument
    return None


def is_no_value(node: Node) -> bool:
    """Whether a node is `!Ref AWS::NoValue`, which takes its property away."""
    called = function(node)
    return called is not None and called[0] == "Ref" and called[1].value == NO_VALUE


class Resolver:
    """Resolves texts of one template: `parameters` and `resources` are its sections, by name and logical id.

    There is no stack; `stack` is what it would be called.
    """

    def __init__(
        self,
        document: Document,
        parameters: dict[str, Node],
        resources: dict[str, Node],
        account: Account,
        stack: str,
    ) -> None:
        self._document = document
        self._parameters = parameters
        self._resources = resources
        self._account = account
        self._names: dict[str, str] = {}  # of resources
        self._asking: list[str] = []  # resources whose name is being made, of that of the next
        self._pseudo = {
            "AWS::Region": account.region,
            "AWS::AccountId": account.account_id,
            "AWS::Partition": account.partition,
            "AWS::StackName": stack,
            "AWS::URLSuffix": account.suffix,
        }
        self._functions: dict[str, Callable[[Node], ScalarNode]] = {
            "Ref": self._ref,
            "Fn::Sub": self._sub,
            "Fn::GetAtt": self._get_att,
            "Fn::Join": self._join,
        }

    def text(self, node: Node) -> ScalarNode:
        """The text that a node is or stands for. Raises Unreadable."""
        called = function(node)
        if called is None:
            if not isinstance(node, ScalarNode):
                raise Unreadable("must be text, or a function that makes text", node.start_mark.index)
            return node
        name, argument = called
        if name not in self._functions:
            known = ", ".join(self._functions)
            raise Unreadable(f"{name} is not resolved here; only {known} are", node.start_mark.index)
        return self._functions[name](argument)

    def name(self, logical_id: str, at: int) -> str:
        """The name of a resource of the template. Raises Unreadable."""
        if logical_id in self._asking:
            raise Unreadable(f"the name of {logical_id} is made of itself", at)
        if len(self._asking) == DEPTH_MAX:
            raise Unreadable(f"more than {DEPTH_MAX} names are made of each other", at)
        if logical_id not in self._names:
            self._asking.append(logical_id)
            try:
                self._names[logical_id] = self._named(logical_id)
            finally:
                self._asking.pop()
        return self._names[logical_id]

    # ── the functions ───────────────────────────────────────────────────────────────────────────────────────

    def _ref(self, node: Node) -> ScalarNode:
        scalar = _scalar(node)
        return _made([_Part(self._value(scalar.value, scalar.start_mark.index), scalar)], node)

    def _get_att(self, node: Node) -> ScalarNode:
        steps = node.value if isinstance(node, SequenceNode) else [node]
        scalars = [_scalar(step) for step in steps] or [_scalar(node)]
        written = ".".join(scalar.value for scalar in scalars)
        return _made([_Part(self._attribute(written, scalars[0].start_mark.index), scalars[0])], node)

    def _join(self, node: Node) -> ScalarNode:
        if isinstance(node, SequenceNode) and len(node.value) == 2 and function(node.value[1]):
            reason = "a list that a function makes is not resolved here; write its texts into Fn::Join"
            raise Unreadable(reason, node.value[1].start_mark.index)
        if not isinstance(node, SequenceNode) or len(node.value) != 2 or not isinstance(node.value[1], SequenceNode):
            raise Unreadable('Fn::Join is [delimiter, [texts]], as in ["/", [plant, !Ref Hall]]', node.start_mark.index)
        delimiter, listed = node.value
        between = _scalar(delimiter).value
        parts: list[_Part] = []
        for item in listed.value:
            if parts:
                parts.append(_Part(between, _scalar(delimiter), copied=True))
            scalar = self.text(item)
            parts.append(_Part(scalar.value, scalar, copied=True))
        return _made(parts, node)

    def _sub(self, node: Node) -> ScalarNode:
        body, given = node, {}
        if isinstance(node, SequenceNode):
            if len(node.value) != 2 or not isinstance(node.value[1], MappingNode):
                raise Unreadable("Fn::Sub is a text, or [text, { name: value }]", node.start_mark.index)
            body, given = node.value[0], dict(self._document.entries(node.value[1]))
        scalar = _scalar(body)
        template, at = scalar.value, 0
        parts: list[_Part] = []
        for found in _VARIABLE.finditer(template):
            parts.append(_Part(template[at : found.start()], scalar, at, copied=True))
            literal, name = found.groups()
            if literal:  # ${!topic()} is the rule's own ${topic()}
                parts += [_Part("${", scalar, found.start()), _Part(f"{name}}}", scalar, found.start(2), copied=True)]
            elif name in given:
                parts.append(_Part(self.text(given[name]).value, scalar, found.start()))
            else:
                there = self._document.inside(scalar, found.start())
                parts.append(_Part(self._reference(name, there), scalar, found.start()))
            at = found.end()
        parts.append(_Part(template[at:], scalar, at, copied=True))
        return _made(parts, node)

    # ── what is referred to ─────────────────────────────────────────────────────────────────────────────────

    def _reference(self, written: str, at: int) -> str:
        """What `${written}` of Fn::Sub stands for."""
        if _ATTRIBUTE.fullmatch(written):
            return self._attribute(written, at)
        if _NAME.fullmatch(written):
            return self._value(written, at)
        raise Unreadable(
            f"Fn::Sub has no ${{{written[:40]}}}; for a template of the rule write ${{!{written[:40]}}}", at
        )

    def _value(self, name: str, at: int) -> str:
        """What `!Ref name` stands for."""
        if name in self._pseudo:
            return self._pseudo[name]
        if name in self._parameters:
            parameter = self._parameters[name]
            if kind(parameter).startswith(_STORED):
                reason = f"the parameter {name} is looked up in Systems Manager: it is known when a stack is created"
                raise Unreadable(reason, at)
            if kind(parameter).startswith(_LISTS):
                raise Unreadable(f"the parameter {name} is a list, and lists are not resolved here", at)
            default = member(parameter, "Default")
            if not isinstance(default, ScalarNode):
                raise Unreadable(f"the parameter {name} has no Default, so its value is not known here", at)
            return str(default.value)
        if name in self._resources:
            return self.name(name, at)
        if name.startswith("AWS::"):
            raise Unreadable(f"{name} is known when a stack is created, and not here", at)
        known = did_you_mean(name, [*self._parameters, *self._resources])
        raise Unreadable(f"{name[:80]!r} is no parameter and no resource of this template{known}", at)

    def _attribute(self, written: str, at: int) -> str:
        """What `!GetAtt resource.attribute` stands for."""
        logical_id, _, attribute = written.partition(".")
        if logical_id not in self._resources:
            known = did_you_mean(logical_id, self._resources)
            raise Unreadable(f"{logical_id[:80]!r} is no resource of this template{known}", at)
        named_by, form = RESOURCES.get(kind(self._resources[logical_id]), ("", ""))
        if form and attribute in _ARN_ATTRIBUTES:
            return self._account.fill(form, self.name(logical_id, at))
        if named_by and attribute == named_by:
            return self.name(logical_id, at)
        raise Unreadable(f"{written[:80]} is known when a stack is created, and not here", at)

    def _named(self, logical_id: str) -> str:
        resource = self._resources[logical_id]
        named_by, _ = RESOURCES.get(kind(resource), ("", ""))
        written = member(member(resource, "Properties"), named_by)
        return logical_id if written is None else str(self.text(written).value)


@dataclass(frozen=True, slots=True)
class _Part:
    """A part of a text that is being made, and where it comes from."""

    text: str
    origin: ScalarNode
    offset: int = 0
    copied: bool = False


def _made(parts: Sequence[_Part], at: Node) -> Made:
    pieces, length = [], 0
    for part in parts:
        pieces.append(Piece(length, part.origin, part.offset, part.copied))
        length += len(part.text)
        if length > TEXT_CHARS_MAX:
            raise Unreadable(f"makes a text of more than {TEXT_CHARS_MAX:,} characters", at.start_mark.index)
    return Made("".join(part.text for part in parts), pieces, at)


def _scalar(node: Node) -> ScalarNode:
    if not isinstance(node, ScalarNode):
        raise Unreadable("must be plain text", node.start_mark.index)
    return node


def kind(resource: Node) -> str:
    """The `Type` of a resource or of a parameter, empty without one."""
    written = member(resource, "Type")
    return str(written.value) if isinstance(written, ScalarNode) else ""
