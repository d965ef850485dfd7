"""The schema for editors: what the models say, no more and no less, and the copy that is checked in."""

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from rules.actions import ACTIONS
from rules.files.reader import Payload
from rules.files.schema import schema

COPY = Path(__file__).parent.parent / "docs" / "rules" / "rules.schema.json"


def test_the_copy_that_editors_read_is_up_to_date() -> None:
    assert json.loads(COPY.read_text()) == schema(), "run: tidegate rules schema > docs/rules/rules.schema.json"


def test_every_action_is_offered_and_a_rule_has_one_key_per_action() -> None:
    definitions = schema()["$defs"]
    assert definitions["Action"]["properties"].keys() == ACTIONS.keys()
    assert (definitions["Action"]["minProperties"], definitions["Action"]["maxProperties"]) == (1, 1)
    assert definitions["Rule"]["properties"]["actions"]["items"] == {"$ref": "#/$defs/Action"}


@pytest.mark.parametrize("model", [Payload, *ACTIONS.values()])
def test_a_mapping_has_the_keys_of_its_model_and_no_others(model: type[BaseModel]) -> None:
    definition = schema()["$defs"]["Rule" if model is Payload else model.__name__]
    fields = {field.alias or name: field for name, field in model.model_fields.items()}
    assert definition["properties"].keys() == fields.keys()
    assert set(definition.get("required", [])) == {key for key, field in fields.items() if field.is_required()}
    assert definition["additionalProperties"] is False
    assert definition["description"]


def test_templates_are_texts_and_what_may_be_chosen_is_listed() -> None:
    definitions = schema()["$defs"]
    assert definitions["S3"]["properties"]["key"] == {"type": "string", "minLength": 1}
    state = definitions["CloudwatchAlarm"]["properties"]["stateValue"]
    assert state == {"anyOf": [{"enum": ["OK", "ALARM", "INSUFFICIENT_DATA"]}, {"type": "string", "pattern": "\\$\\{"}]}
    url, endpoint = definitions["Http"]["properties"]["url"], definitions["OpenSearch"]["properties"]["endpoint"]
    assert url["pattern"] == r"^https://.|\$\{"
    assert endpoint["pattern"] == r"^https://.|^http://.|\$\{"
    assert definitions["Sns"]["properties"]["targetArn"]["not"] == {"pattern": "\\$\\{"}
    assert definitions["Sns"]["properties"]["messageFormat"]["enum"] == ["RAW", "JSON"]
    assert definitions["Timestream"]["properties"]["dimensions"]["maxItems"] == 128


def test_nothing_refers_to_nothing_and_nothing_may_be_null() -> None:
    made = schema()
    references, types = set(), set()

    def look(node: Any) -> None:
        if isinstance(node, dict):
            references.add(node.get("$ref")) if isinstance(node.get("$ref"), str) else None
            types.add(node.get("type")) if isinstance(node.get("type"), str) else None
        for below in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
            look(below)

    look(made)
    assert {reference.removeprefix("#/$defs/") for reference in references} == made["$defs"].keys()
    assert types == {"object", "array", "string", "integer", "boolean"}
