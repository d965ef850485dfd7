"""The JSON Schema of a rules file, for editors: made of the same models that read one.

Describes our own form (rule names and their rules), because an editor that is offered every form at once explains
nothing well; templates have schemas of CloudFormation's own. An editor knows the shape with it, not the SQL:
`tidegate rules check` says the rest.
"""

from typing import Any

from pydantic.json_schema import models_json_schema

from rules.actions import ACTIONS
from rules.files.reader import RULE_NAME, Payload

DIALECT = "https://json-schema.org/draft/2020-12/schema"

_NULL = {"type": "null"}


def schema() -> dict[str, Any]:
    """The schema as a JSON value; the same each time."""
    models = [(model, "validation") for model in (Payload, *ACTIONS.values())]
    _, made = models_json_schema(models, by_alias=True)  # type: ignore[arg-type]
    definitions = {name: _cleaned(definition) for name, definition in made["$defs"].items()}
    rule = definitions.pop("Payload")
    rule["properties"]["actions"]["items"] = {"$ref": "#/$defs/Action"}
    rule["properties"]["errorAction"]["$ref"] = "#/$defs/Action"
    return {
        "$schema": DIALECT,
        "title": "Tidegate rules",
        "description": "Rule names and their rules; check a file with `tidegate rules check`.",
        "type": "object",
        "propertyNames": {"pattern": f"^{RULE_NAME.pattern}$"},
        "additionalProperties": {"$ref": "#/$defs/Rule"},
        "$defs": {"Rule": rule, "Action": _action(definitions), **definitions},
    }


def _action(definitions: dict[str, Any]) -> dict[str, Any]:
    """A mapping with one key, the action's name."""
    properties = {
        name: {"$ref": f"#/$defs/{model.__name__}", "description": definitions[model.__name__]["description"]}
        for name, model in ACTIONS.items()
    }
    return {
        "description": "One action, `name: { parameters }`.",
        "type": "object",
        "properties": properties,
        "minProperties": 1,
        "maxProperties": 1,
        "additionalProperties": False,
    }


def _cleaned(node: Any) -> Any:
    """Without what pydantic adds: titles that repeat the key, and null, which stands for a key that is left out."""
    if isinstance(node, list):
        return [_cleaned(item) for item in node]
    if not isinstance(node, dict):
        return node
    kept = {key: value for key, value in node.items() if not (key == "title" and isinstance(value, str))}
    if kept.get("default", 0) is None:
        del kept["default"]
    options = [option for option in kept.pop("anyOf", []) if option != _NULL]
    if len(options) == 1:
        kept = {**options[0], **kept}
    elif options:
        kept["anyOf"] = options
    return {key: _cleaned(value) for key, value in kept.items()}
