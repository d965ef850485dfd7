"""Provisioning templates as files: NAME.json or NAME.yaml in one directory, each the template NAME.

All or nothing: with a fault in one file, `load` raises every fault of all of them, and whoever asked keeps what it had.
What AWS IoT has and cannot be done here is refused (an inline policy document), except what only sorts devices and
gives them nothing: thing types, thing groups, billing groups.

Will not decide what a template makes of a device (`devices.templates`) nor run its hook (`devices.hooks`).
"""

import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal

import orjson
import yaml
from pydantic import ConfigDict, Field, ValidationError, field_validator
from pydantic.alias_generators import to_pascal
from yaml.nodes import MappingNode, Node
from yaml.reader import ReaderError

from core.config import Section
from core.errors import ConfigurationError
from core.faults import describe
from core.files import read_texts
from devices.config import POLICIES_MAX
from devices.intrinsics import Compiler
from devices.templates import CERTIFICATE_ID, SUBJECT_PARAMETERS, Override, Template

TEMPLATE_BYTES_MAX = 65_536  # AWS IoT takes 10,240; ours may have comments
NESTING_MAX = 32  # a template needs ten
PARAMETERS_MAX = 100  # that one template declares
DEFAULT_CHARS_MAX = 2_048  # of a parameter; the longest attribute value has 800

_THIS_CERTIFICATE = {"Ref": CERTIFICATE_ID}
_NAME = re.compile(r"[0-9A-Za-z_-]{1,36}")  # AWS
_TAG = "tag:yaml.org,2002:"


def load(directory: Path | None) -> dict[str, Template]:
    """The templates of a directory by name: NAME.json, NAME.yaml. None without one.

    Raises ConfigurationError with every fault in every file.
    """
    templates: dict[str, Template] = {}
    problems: list[str] = []
    for file, text in (read_texts(directory) if directory is not None else {}).items():
        try:
            template = parse(file, text)
        except ConfigurationError as error:
            problems += [f"{file}: {problem}" for problem in error.problems]
            continue
        if template.name in templates:
            problems.append(f"{file}: there is a template {template.name} already")
        if template.hook is not None and not (template.hook.is_file() and os.access(template.hook, os.X_OK)):
            problems.append(f"{file}: Metadata.Tidegate.PreProvisioningHook: {template.hook} is no executable file")
        templates[template.name] = template
    if problems:
        raise ConfigurationError("provisioning", problems)
    return templates


def parse(file: str, text: str) -> Template:
    """The template in the text of a file, which is named after it. Raises ConfigurationError with every fault."""
    document = _read(file, text)
    try:
        orjson.dumps(document)  # what DeviceConfiguration may hold
        body = _Body.model_validate(document)
    except ValidationError as error:
        raise ConfigurationError(file, describe(error, document, _Body)) from None
    except (TypeError, RecursionError) as error:
        raise ConfigurationError(file, [f"cannot be said in JSON: {error}"]) from None
    problems = [] if _NAME.fullmatch(Path(file).stem) else ["a template's name is 1 to 36 letters, digits, _ and -"]
    template, faults = _compiled(file, body)
    if template is None or problems + faults:
        raise ConfigurationError(file, problems + faults)
    return template


# -- the shape of a template ------------------------------------------------------------------------------------------


class _Part(Section):
    model_config = ConfigDict(alias_generator=to_pascal)


class _Parameter(_Part):
    type: Literal["String"]
    default: Annotated[str, Field(max_length=DEFAULT_CHARS_MAX)] | None = None


class _ThingProperties(_Part):
    thing_name: Any
    attribute_payload: dict[str, Any] = Field({})
    thing_type_name: Any = None
    thing_groups: Any = None
    billing_group: Any = None


class _ThingOverrides(_Part):
    attribute_payload: Literal["DO_NOTHING", "REPLACE", "MERGE", "FAIL"] = "FAIL"
    thing_type_name: Literal["DO_NOTHING", "REPLACE", "FAIL"] | None = None
    thing_groups: Literal["DO_NOTHING", "REPLACE", "MERGE", "FAIL"] | None = None


class _Thing(_Part):
    type: Literal["AWS::IoT::Thing"]
    properties: _ThingProperties
    override_settings: _ThingOverrides = _ThingOverrides()


class _CertificateProperties(_Part):
    certificate_id: Any
    status: Any = "ACTIVE"
    certificate_mode: Literal["DEFAULT"] = "DEFAULT"
    thing_principal_type: Literal["EXCLUSIVE_THING", "NON_EXCLUSIVE_THING"] | None = None
    certificate_signing_request: Any = None
    certificate_pem: Any = None

    @field_validator("certificate_id", "certificate_signing_request", "certificate_pem")
    @classmethod
    def _is_there_already(cls, value: Any) -> Any:
        if value != _THIS_CERTIFICATE:
            raise ValueError(f"the certificate is there already: write CertificateId: {_THIS_CERTIFICATE}")
        return value


class _CertificateOverrides(_Part):
    status: Literal["DO_NOTHING", "REPLACE", "FAIL"] | None = None  # the certificate is always a new one


class _Certificate(_Part):
    type: Literal["AWS::IoT::Certificate"]
    properties: _CertificateProperties
    override_settings: _CertificateOverrides = _CertificateOverrides()


class _PolicyProperties(_Part):
    policy_name: Any = None
    policy_document: Any = None

    @field_validator("policy_document")
    @classmethod
    def _refuse(cls, _: Any) -> None:
        raise ValueError("policies are files here: put this one into the policies directory and write its PolicyName")


class _Policy(_Part):
    type: Literal["AWS::IoT::Policy"]
    properties: _PolicyProperties


class _Tidegate(_Part):
    pre_provisioning_hook: Annotated[str, Field(min_length=1)] | None = None


class _Metadata(_Part):
    model_config = ConfigDict(extra="allow")  # other tools keep theirs here, as in CloudFormation

    tidegate: _Tidegate = _Tidegate()


class _Body(_Part):
    description: str = ""
    parameters: dict[str, _Parameter] = Field({}, max_length=PARAMETERS_MAX)
    mappings: dict[str, dict[str, dict[str, str]]] = Field({})
    resources: dict[str, Annotated[_Thing | _Certificate | _Policy, Field(discriminator="type")]]
    device_configuration: dict[str, Any] = Field({})
    metadata: _Metadata = _Metadata()


def _compiled(file: str, body: _Body) -> tuple[Template | None, list[str]]:
    """The template, if it can be made, and what is wrong with it."""
    compiler = Compiler(frozenset({*body.parameters, CERTIFICATE_ID, *SUBJECT_PARAMETERS}), body.mappings)
    parts = {f"Resources.{name}.Properties": each for name, each in body.resources.items()}
    things = [(path, each) for path, each in parts.items() if isinstance(each, _Thing)]
    certificates = [(path, each) for path, each in parts.items() if isinstance(each, _Certificate)]
    policies = [(path, each) for path, each in parts.items() if isinstance(each, _Policy)]
    if len(things) != 1 or len(certificates) != 1:
        return None, ["Resources: needs one AWS::IoT::Thing and one AWS::IoT::Certificate; they make a device"]
    if len(policies) > POLICIES_MAX:
        return None, [f"Resources: has {len(policies)} policies; a device has at most {POLICIES_MAX}"]
    (at, thing), (there, certificate) = things[0], certificates[0]
    hook = body.metadata.tidegate.pre_provisioning_hook
    template = Template(
        name=Path(file).stem,
        parameters={name: parameter.default for name, parameter in body.parameters.items()},
        hook=Path(file).absolute().parent / hook if hook else None,
        thing=compiler.text(thing.properties.thing_name, f"{at}.ThingName"),
        attributes={
            name: compiler.text(value, f"{at}.AttributePayload.{name}")
            for name, value in thing.properties.attribute_payload.items()
        },
        override=Override(thing.override_settings.attribute_payload),
        status=compiler.text(certificate.properties.status, f"{there}.Status"),
        policies=tuple(
            compiler.text(policy.properties.policy_name, f"{place}.PolicyName") for place, policy in policies
        ),
        configuration=compiler.value(body.device_configuration, "DeviceConfiguration"),
    )
    return template, compiler.problems


# -- the text ---------------------------------------------------------------------------------------------------------


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, bounded: no aliases, so that no text can unfold into more than it is, and no dates."""

    depth = 0

    def compose_node(self, parent: Node | None, index: Any) -> Node | None:
        mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
        if self.check_event(yaml.AliasEvent):
            raise yaml.MarkedYAMLError(problem="a text that begins with * needs quotes", problem_mark=mark)
        self.depth += 1
        if self.depth > NESTING_MAX:
            raise yaml.MarkedYAMLError(problem=f"more than {NESTING_MAX} levels", problem_mark=mark)
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_mapping(self, node: MappingNode, deep: bool = False) -> dict[Any, Any]:
        mapping = super().construct_mapping(node, deep)
        if len(mapping) != len(node.value):
            raise yaml.MarkedYAMLError(problem="a key stands here twice", problem_mark=node.start_mark)
        return mapping


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != f"{_TAG}timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def _read(file: str, text: str) -> dict[str, Any]:
    """The document in a text. Raises ConfigurationError with line and column."""
    if len(text.encode(errors="replace")) > TEMPLATE_BYTES_MAX:
        raise ConfigurationError(file, [f"larger than {TEMPLATE_BYTES_MAX:,} bytes"])
    try:
        # YAML forbids tabs between tokens; a tab inside a JSON string is written \t.
        document = yaml.load(text.replace("\t", " ") if file.endswith(".json") else text, _Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise ConfigurationError(file, [f"{place}{error.problem or error.context}"]) from None
    except (ReaderError, ValueError) as error:
        raise ConfigurationError(file, [f"not YAML or JSON: {str(error).splitlines()[0]}"]) from None
    if not isinstance(document, dict):
        raise ConfigurationError(file, ["a template is a mapping with Parameters and Resources"])
    return document
