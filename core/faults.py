"""What pydantic found wrong with a document, in the words of the person who wrote it.

Turns each fault into one line, `dotted.path[0].key: what is wrong`: the path as the writer sees it, the kind
of value that is wanted, for an unknown key the nearest known one. Values are shown only where their form is
the fault (a size, an address), so that a secret in the wrong place does not end up in a log.

Will not read files nor raise anything; `core.config` does both.
"""

import difflib
import types
import typing
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

_WORDS = {
    "missing": "is missing",
    "string_type": "must be text in quotes",
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "finite_number": "must be a finite number",
    "bool_type": "must be true or false",
    "list_type": "must be a list, in [ ]",
    "tuple_type": "must be a list, in [ ]",
    "set_type": "must be a list, in [ ]",
    "frozen_set_type": "must be a list, in [ ]",
    "dict_type": "must be a table",
    "model_type": "must be a table",
    "model_attributes_type": "must be a table",
}
_KINDS = {
    bool: "true or false",
    str: "text",
    int: "a number",
    float: "a decimal number",
    list: "a list",
    dict: "a table",
}


def describe(error: ValidationError, document: Any, model: type[BaseModel]) -> list[str]:
    """One line for each fault that validating `document` as `model` found."""
    return [_line(detail, document, model) for detail in error.errors(include_url=False)]


def _line(detail: ErrorDetails, document: Any, model: type[BaseModel]) -> str:
    path, words = _path(detail["loc"], document), _words(detail, model)
    return f"{path}: {words}" if path else words


def _words(detail: ErrorDetails, model: type[BaseModel]) -> str:
    kind = detail["type"]
    if kind == "extra_forbidden":
        *parents, key = detail["loc"]
        return f"unknown key; {_suggestion(str(key), _known_keys(model, parents))}"
    if kind == "value_error":
        return str(detail["ctx"]["error"])
    if kind == "string_pattern_mismatch":
        return f"{detail['input']!r} does not match {detail['ctx']['pattern']}"
    if kind not in _WORDS:
        return detail["msg"].replace("Input should", "must").replace("Value should", "must")
    if kind == "missing":
        return _WORDS[kind]
    given = _KINDS.get(type(detail["input"]))
    return f"{_WORDS[kind]}, not {given}" if given else _WORDS[kind]


def _path(loc: tuple[int | str, ...], document: Any) -> str:
    """The path as it stands in the document; steps that pydantic adds (the arms of a union) are left out."""
    path, here = "", document
    for number, step in enumerate(loc):
        if isinstance(step, int) and isinstance(here, list):
            path += f"[{step}]"
            here = here[step] if step < len(here) else None
        elif isinstance(here, dict) and step != "[key]" and (step in here or number == len(loc) - 1):
            path += f".{step}" if path else str(step)
            here = here.get(str(step))
    return path


def _suggestion(key: str, known: list[str]) -> str:
    near = difflib.get_close_matches(key, known, n=1)
    return f"did you mean {near[0]!r}?" if near else f"known here: {', '.join(sorted(known)) or 'none'}"


def _known_keys(annotation: Any, parents: list[int | str]) -> list[str]:
    """The keys of the models found by following `parents` through fields, lists, tables and unions."""
    found = [annotation]
    for step in parents:
        fields = [_fields(model).get(str(step)) for model in _models(found)]
        found = [field for field in fields if field is not None] or found  # an index or a free key: stay
    return sorted({key for model in _models(found) for key in _fields(model)})


def _fields(model: type[BaseModel]) -> dict[str, Any]:
    return {field.alias or name: field.annotation for name, field in model.model_fields.items()}


def _models(annotations: list[Any]) -> Iterator[type[BaseModel]]:
    for annotation in annotations:
        if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias):
            if issubclass(annotation, BaseModel):
                yield annotation
        else:
            yield from _models(list(typing.get_args(annotation)))
