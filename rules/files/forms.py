"""The forms that a rules file may have, each turned into the same thing: names and payload nodes of rules.

    Overheat: { sql: …, actions: … }                      our own: rule names and their rules
    { sql: …, actions: … }                                one payload, as for `aws iot create-topic-rule
                                                          --topic-rule-payload`; the file's name is the rule's
    { ruleName: Overheat, topicRulePayload: { … } }       as for `--cli-input-json`, and what `export` writes
    { ruleArn: …, rule: { ruleName: Overheat, sql: … } }  what `aws iot get-topic-rule` prints
    a list of either of the last two

Templates are another matter: `rules.files.cloudformation`. What is inside a payload, `rules.files.reader` reads.
"""

from collections.abc import Callable
from dataclasses import dataclass

from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from rules.files.document import Document, Unreadable

_CREATED_KEYS = frozenset(("ruleName", "topicRulePayload", "tags"))
_LISTED = "`aws iot list-topic-rules` prints no statements; ask for each rule with `aws iot get-topic-rule`"
_GOT_KEYS = frozenset(("rule", "ruleArn"))


@dataclass(frozen=True, slots=True)
class Form:
    """How a payload is written in one kind of file.

    `spelled` gives the file's spelling of a name of AWS's API; `ignored` are keys of the payload that say nothing
    here. Not `typed`: true, false and numbers are written as texts.
    """

    spelled: Callable[[str], str] = str
    ignored: frozenset[str] = frozenset()
    typed: bool = True


@dataclass(frozen=True, slots=True)
class Entry:
    """One rule of a file: its name, the character at which that stands, the node of its payload."""

    name: str
    name_at: int
    payload: Node
    form: Form


OURS = Form()
GOT = Form(ignored=frozenset(("ruleName", "createdAt")))


def entries(document: Document) -> list[Entry]:
    """The rules in a document that is no template. Raises Unreadable."""
    root = document.root
    if isinstance(root, SequenceNode):
        return [_named(document, node) for node in root.value]
    if root is None:
        return []
    if not isinstance(root, MappingNode):
        raise Unreadable("a rules file maps rule names to rules", root.start_mark.index)
    keys = _keys(root)
    listed = keys.get("rules")
    if isinstance(listed, SequenceNode) and any(_is_listed(_keys(item)) for item in listed.value):
        raise Unreadable(_LISTED, root.start_mark.index)
    if keys.get("topicRulePayload") is not None or _is_got(keys):
        return [_named(document, root)]
    if isinstance(keys.get("sql"), ScalarNode) or isinstance(keys.get("actions"), SequenceNode):
        return [Entry(stem(document.name), root.start_mark.index, root, OURS)]
    return [
        Entry(key.value if isinstance(key, ScalarNode) else "", key.start_mark.index, value, OURS)
        for key, value in root.value
    ]


def _named(document: Document, node: Node) -> Entry:
    """A rule in a document of its own that says its name."""
    keys = _keys(node)
    if _is_got(keys):
        payload, form, known = keys["rule"], GOT, _GOT_KEYS
        name = _keys(payload)["ruleName"]
    elif "topicRulePayload" in keys:
        payload, form, known = keys["topicRulePayload"], OURS, _CREATED_KEYS
        name = keys.get("ruleName", node)
    elif _is_listed(keys):
        raise Unreadable(_LISTED, node.start_mark.index)
    else:
        reason = "a rules file maps rule names to rules, or lists documents with ruleName and topicRulePayload"
        raise Unreadable(reason, node.start_mark.index)
    if not isinstance(name, ScalarNode):
        raise Unreadable("ruleName is missing", name.start_mark.index)
    for key, value in document.entries(node) if isinstance(node, MappingNode) else ():
        if key not in known:
            raise Unreadable(f"no such key here: {key[:80]!r}", value.start_mark.index)
    return Entry(name.value, name.start_mark.index, payload, form)


def _is_got(keys: dict[str, Node]) -> bool:
    return "rule" in keys and "ruleName" in _keys(keys["rule"])


def _is_listed(keys: dict[str, Node]) -> bool:
    """Whether this is what `aws iot list-topic-rules` prints of a rule."""
    return "ruleArn" in keys and "ruleName" in keys and "rule" not in keys


def _keys(node: Node) -> dict[str, Node]:
    if not isinstance(node, MappingNode):
        return {}
    return {key.value: value for key, value in node.value if isinstance(key, ScalarNode)}


def stem(file: str) -> str:
    """The name of a file without its directory and its ending."""
    return file.rsplit("/", 1)[-1].rsplit(".", 1)[0]
