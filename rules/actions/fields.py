"""The kinds of values that parameters of actions have: templates, plain texts, numbers written as text.

`Text` is compiled into a Template when a file is read, together with the statement of its rule, so that the
`@variables` of SET are known. AWS takes templates in most fields; where it does not, and where a name is looked
up when rules are loaded, `${` is an error. What can be known before a message comes is checked: a template
without `${…}` is a constant, and held against the form of its field.
"""

import difflib
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, TypeAlias, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    InstanceOf,
    PlainSerializer,
    StringConstraints,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
)
from pydantic.alias_generators import to_camel
from pydantic_core import CoreSchema, core_schema

from rules.sql.syntax import Statement
from rules.sql.template import Template
from rules.sql.values import SqlVersion

NAME_CHARS_MAX = 2_048  # AWS: the longest ARN

Place: TypeAlias = tuple[str | int, ...]  # keys and positions from a rule's payload down, in the names of AWS's API

_WITHOUT: dict[str, Any] = {"not": {"pattern": r"\$\{"}}
_ANY_TEMPLATE: dict[str, Any] = {"type": "string", "pattern": r"\$\{"}
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_WHOLE = re.compile(r"[+-]?\d+", re.ASCII)
_NUMBER_CHARS_MAX = 400  # 1E308 written out

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Setting:
    """What a template stands in: its rule's version of SQL and, where it could be read, its statement.

    `calls`: the functions that call out which this side runs, None for all.
    """

    version: SqlVersion = SqlVersion.V2016
    statement: Statement | None = None
    calls: frozenset[str] | None = None


class Parameters(BaseModel):
    """A mapping of parameters: AWS's names, nothing else, never changed."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, alias_generator=to_camel, defer_build=True)

    @field_validator("*", mode="before")
    @classmethod
    def _not_null(cls, value: Any) -> Any:
        if value is None:
            raise ValueError("is empty: write a value, or leave the key out")
        return value


# ── plain texts ─────────────────────────────────────────────────────────────────────────────────────────────


def _looked_up(value: str) -> str:
    if "${" in value:
        raise ValueError("is looked up when rules are loaded, so it cannot be a template; write the name itself")
    return value


def _plain(value: str) -> str:
    if "${" in value:
        raise ValueError("a template (${…}) is not allowed here, in AWS neither")
    return value


_Word = Annotated[str, StringConstraints(min_length=1, max_length=NAME_CHARS_MAX)]
NO_TEMPLATE = AfterValidator(_plain)
Name = Annotated[_Word, AfterValidator(_looked_up), Field(json_schema_extra=_WITHOUT)]
Plain = Annotated[_Word, NO_TEMPLATE, Field(json_schema_extra=_WITHOUT)]


# ── lists ───────────────────────────────────────────────────────────────────────────────────────────────────

Several = Annotated[tuple[T, ...], Field(strict=False)]  # a list in the file, a tuple in the model


class Count:
    """How many entries a list may have."""

    def __init__(self, least: int, most: int | None = None) -> None:
        self._least = least
        self._most = most

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        most = {} if self._most is None else {"maxItems": self._most}
        return {**handler(schema), "minItems": self._least, **most}

    def _check(self, entries: tuple[Any, ...]) -> tuple[Any, ...]:
        # Not by pydantic's own bound: it is complained about as well when an entry is wrong.
        if len(entries) < self._least:
            raise ValueError(f"must have at least {self._least} entry")
        if self._most is not None and len(entries) > self._most:
            raise ValueError(f"must have at most {self._most} entries")
        return entries


# ── actions ─────────────────────────────────────────────────────────────────────────────────────────────────


class Action(Parameters):
    """One action of a rule. `name` is its key in a rules file."""

    name: ClassVar[str]


class RoleAction(Action):
    """An action that has a role in AWS. Here `role_arn` is accepted and means nothing."""

    role_arn: Plain | None = None


# ── templates ───────────────────────────────────────────────────────────────────────────────────────────────


def _template(value: Any, info: ValidationInfo) -> Any:
    if not isinstance(value, str):
        return value  # InstanceOf refuses it
    setting = info.context or Setting()
    return Template(value, setting.version, setting.statement, setting.calls)


def _of_message(template: Template) -> Template:
    if "@{" in template.source:
        raise ValueError("@{…} is only for tableName and tags of influxDB; write ${…}")
    return template


def _of_output(template: Template) -> Template:
    if "@{" in template.source and "${" in template.source:
        raise ValueError("${…} and @{…} cannot stand in one value")
    return template


def _filled(template: Template) -> Template:
    if not template.source:
        raise ValueError("must not be empty")
    return template


def _source(template: Template) -> str:
    return template.source


_Template = Annotated[InstanceOf[Template], BeforeValidator(_template), PlainSerializer(_source, return_type=str)]
_SHOWN = WithJsonSchema({"type": "string", "minLength": 1})
AnyText = Annotated[_Template, AfterValidator(_of_message), WithJsonSchema({"type": "string"})]
Text = Annotated[_Template, AfterValidator(_of_message), AfterValidator(_filled), _SHOWN]
OutputText = Annotated[_Template, AfterValidator(_of_output), AfterValidator(_filled), _SHOWN]


def at_most(chars: int) -> AfterValidator:
    """A bound on a template as it is written."""

    def check(template: Template) -> Template:
        if len(template.source) > chars:
            raise ValueError(f"has more than {chars:,} characters")
        return template

    return AfterValidator(check)


def when_constant(check: Callable[[str], str | None]) -> AfterValidator:
    """What must be true of a template without `${…}`: `check` says what is wrong, or None."""

    def validate(template: Template) -> Template:
        if template.constant is not None and (complaint := check(template.constant)):
            raise ValueError(complaint)
        return template

    return AfterValidator(validate)


def numeric(least: int | None = None, most: int | None = None, *, whole: bool = False) -> AfterValidator:
    """A template that gives a number; AWS wants numbers written as text."""
    form, kind = (_WHOLE, "a whole number") if whole else (_NUMBER, "a number")
    between = f" from {least:,} to {most:,}" if least is not None and most is not None else ""

    def check(text: str) -> str | None:
        right = len(text) <= _NUMBER_CHARS_MAX and form.fullmatch(text) is not None
        if right and (least is None or float(text) >= least) and (most is None or float(text) <= most):
            return None
        return f"must be {kind}{between} as text, or a template"

    return when_constant(check)


class Begins:
    """A template that gives a text with one of these beginnings; editors know them."""

    def __init__(self, *beginnings: str) -> None:
        self._beginnings = beginnings
        self._form = re.compile("|".join(f"{re.escape(beginning)}." for beginning in beginnings), re.DOTALL)

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        either = "|".join(f"^{beginning}." for beginning in self._beginnings)
        return {**handler(schema), "pattern": rf"{either}|\$\{{"}

    def _check(self, template: Template) -> Template:
        if template.constant is not None and not self._form.match(template.constant):
            raise ValueError(f"must begin with {listed(self._beginnings)}")
        return template


class OneOf:
    """A template that gives one of `words`; editors offer them."""

    def __init__(self, *words: str) -> None:
        self._words = words

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"anyOf": [{"enum": list(self._words)}, _ANY_TEMPLATE]}

    def _check(self, template: Template) -> Template:
        if template.constant is not None and template.constant not in self._words:
            raise ValueError(f"must be {listed(self._words)}{did_you_mean(template.constant, self._words)}")
        return template


# ── words ───────────────────────────────────────────────────────────────────────────────────────────────────


def listed(words: Iterable[str]) -> str:
    """`a, b or c`."""
    *first, last = words
    return f"{', '.join(first)} or {last}" if first else last


def did_you_mean(word: object, known: Iterable[str]) -> str:
    """`; did you mean 'known'?` when something known is near, else nothing."""
    by_lower = {name.lower(): name for name in known}
    near = difflib.get_close_matches(str(word)[:NAME_CHARS_MAX].lower(), by_lower, n=1)
    return f"; did you mean {by_lower[near[0]]!r}?" if near else ""
