"""What pydantic found wrong in a rule, in the words of the person who wrote it, with a suggestion where one is near.

Values are named only where their form is the fault. Will not decide where a fault stands (`rules.files.reader` does).
"""

import re
import typing
from collections.abc import Callable, Iterator
from typing import Any

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from rules.actions.fields import did_you_mean

_WORDS = {
    "missing": "is missing",
    "is_instance_of": "must be text in quotes",
    "string_type": "must be text in quotes",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "list_type": "must be a list",
    "tuple_type": "must be a list",
    "dict_type": "must be a mapping of keys to values",
    "model_type": "must be a mapping of keys to values",
}
_QUOTED = re.compile(r"'((?:[^'\\]|\\.)*)'")


def is_of_key(details: ErrorDetails) -> bool:
    """Whether the fault is the last key of its place, and not that key's value."""
    return details["type"] == "extra_forbidden"


def words(details: ErrorDetails, model: type[BaseModel], spelled: Callable[[str], str]) -> str:
    """What is wrong; `model` is what was validated, `spelled` the file's spelling of AWS's names."""
    kind = details["type"]
    if kind == "extra_forbidden":
        *parents, key = details["loc"]
        known = sorted({spelled(name) for name in _known(model, parents)})
        return "no such key here" + (did_you_mean(key, known) or f"; there are: {', '.join(known)}")
    if kind == "value_error":
        return str(details["ctx"]["error"])
    if kind == "literal_error":
        expected = details["ctx"]["expected"]
        return f"must be {expected}{did_you_mean(details['input'], _QUOTED.findall(expected))}"
    if kind == "too_long":
        return f"must have at most {details['ctx']['max_length']} entries"
    if kind == "string_pattern_mismatch":
        return f"does not have the form {details['ctx']['pattern']}"
    plain = re.sub(r"^\w+ should", "must", details["msg"])
    return _WORDS.get(kind, plain)


def _known(annotation: Any, parents: list[int | str]) -> Iterator[str]:
    """The keys of the models found by following `parents` through fields, lists and mappings."""
    found = [annotation]
    for step in parents:
        fields = [_fields(model).get(str(step)) for model in _models(found)]
        found = [field for field in fields if field is not None] or found  # an index or a free key: stay
    for model in _models(found):
        yield from _fields(model)


def _fields(model: type[BaseModel]) -> dict[str, Any]:
    return {field.alias or name: field.annotation for name, field in model.model_fields.items()}


def _models(annotations: list[Any]) -> Iterator[type[BaseModel]]:
    for annotation in annotations:
        if typing.get_origin(annotation) is None and isinstance(annotation, type):
            if issubclass(annotation, BaseModel):
                yield annotation
        else:
            yield from _models(list(typing.get_args(annotation)))
