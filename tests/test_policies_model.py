"""Policies against a simple model: every statement looked at one by one, wildcards by trying every way."""

import json
from functools import cache
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from devices.conditions import Context
from devices.patterns import Pattern
from devices.policies import decide
from devices.policy_files import parse

ACTIONS = ["iot:Publish", "iot:Subscribe", "iot:Receive", "iot:Connect"]
PREFIX = {"iot:Publish": "topic/", "iot:Receive": "topic/", "iot:Subscribe": "topicfilter/", "iot:Connect": "client/"}
LETTERS = "ab/*?+#$"

texts = st.text(LETTERS, max_size=8)
globs = st.text("ab/*?", max_size=12)
names = st.sampled_from(["iot:ClientId", "iot:Connection.Thing.ThingName", "iot:Connection.Thing.Attributes[k]"])
pieces = st.one_of(globs, names.map(lambda name: f"${{{name}}}"), st.sampled_from(["${*}", "${?}", "${$}"]))
contexts = st.builds(
    lambda client_id, thing, value: Context(client_id, thing, {} if value is None else {"k": value}),
    texts, st.none() | texts, st.none() | texts,
)  # fmt: skip
starts = st.sampled_from(["topic/", "topicfilter/", "client/", "*", "topic*"])
resources = st.builds(lambda start, more: start + "".join(more), starts, st.lists(pieces, max_size=3))
statements = st.fixed_dictionaries(
    {
        "Effect": st.sampled_from(["Allow", "Allow", "Deny"]),
        "Action": st.lists(st.sampled_from([*ACTIONS, "iot:*", "*", "iot:?ublish"]), min_size=1, max_size=2),
        "Resource": st.lists(resources, min_size=1, max_size=3),
    }
)


def model_glob(tokens: tuple[str | None, ...], text: str) -> bool:
    """`tokens` are characters, "**" for any characters, None for one."""

    @cache
    def match(token: int, at: int) -> bool:
        if token == len(tokens):
            return at == len(text)
        if tokens[token] == "**":
            return match(token + 1, at) or (at < len(text) and match(token, at + 1))
        return at < len(text) and tokens[token] in (None, text[at]) and match(token + 1, at + 1)

    return match(0, 0)


def model_value(name: str, context: Context) -> str | None:
    return {
        "iot:ClientId": context.client_id,
        "iot:Connection.Thing.ThingName": context.thing,
        "iot:Connection.Thing.Attributes[k]": context.attributes.get("k"),
    }[name]


def model_tokens(resource: str, context: Context, *, deny: bool) -> tuple[str | None, ...] | None:
    tokens: list[str | None] = []
    rest = resource
    while rest:
        if rest.startswith("${"):
            name, rest = rest[2:].split("}", 1)
            if name in ("*", "?", "$"):
                tokens.append(name)
                continue
            value = model_value(name, context)
            if not value or (not resource.startswith("client/") and set(value) & set("/+#$")):
                if not deny:
                    return None
                tokens.append("**")
            else:
                tokens += value
        else:
            tokens.append({"*": "**", "?": None}.get(rest[0], rest[0]))
            rest = rest[1:]
    return tuple(tokens)


def model_applies(statement: dict[str, Any], action: str, resource: str, context: Context) -> bool:
    deny = statement["Effect"] == "Deny"
    named = {"*": ACTIONS, "iot:*": ACTIONS, "iot:?ublish": ["iot:Publish"]}
    if not any(action in named.get(written, [written]) for written in statement["Action"]):
        return False
    bound = [model_tokens(written, context, deny=deny) for written in statement["Resource"]]
    return any(tokens is not None and model_glob(tokens, resource) for tokens in bound)


def model_allows(policies: list[list[dict[str, Any]]], action: str, resource: str, context: Context) -> bool:
    effects = {s["Effect"] for policy in policies for s in policy if model_applies(s, action, resource, context)}
    return effects == {"Allow"}


@settings(max_examples=600, deadline=None)
@given(st.lists(st.lists(statements, max_size=4), max_size=3), contexts, st.lists(texts, min_size=1, max_size=6))
def test_decisions_are_those_of_the_model(
    policies: list[list[dict[str, Any]]], context: Context, topics: list[str]
) -> None:
    parsed = [
        parse(f"p{number}", json.dumps({"Version": "2012-10-17", "Statement": listed}))
        for number, listed in enumerate(policies)
    ]
    values = [value for value in (context.client_id, context.thing) if value]
    for action in ACTIONS:
        for topic in [*topics, *values]:
            resource = PREFIX[action] + topic
            expected = model_allows(policies, action, resource, context)
            assert decide(parsed, action, resource, context).allowed is expected


@settings(max_examples=1_500, deadline=None)
@given(st.text("ab*?", max_size=14), st.text("ab", max_size=20))
def test_wildcards_match_what_trying_every_way_would_find(pattern: str, text: str) -> None:
    tokens = tuple({"*": "**", "?": None}.get(character, character) for character in pattern)
    glob = Pattern(pattern).bind(lambda _: None)
    assert glob is not None
    assert glob.matches(text) is model_glob(tokens, text)
