"""`tidegate rules export` and `tidegate rules schema`: what other programs want of rules files, on standard output."""

import re
from enum import StrEnum
from typing import Annotated, Any

import typer
import yaml

from core.cli import EXIT_FAILED, err, errors_to_exit_codes, plain, print_json, write
from core.errors import TidegateError
from rules.actions import ACTIONS
from rules.files import parse
from rules.files.arns import Account
from rules.files.export import documents, template
from rules.files.schema import schema as editor_schema
from tidegate.rules.options import Paths, rules_texts

# What AWS accepts.
REGION = re.compile(r"[a-z]{2,3}(-[a-z]+)+-\d{1,2}", re.ASCII)
ROLE = re.compile(r"arn:aws[a-z-]*:iam::\d{12}:role/[\w+=,.@/-]+", re.ASCII)

_UNFOLDED = re.compile("[\x85\u2028\u2029]")  # they end a line in YAML, and only escapes keep them


class Format(StrEnum):
    """What AWS reads."""

    CLOUDFORMATION = "cloudformation"
    JSON = "json"


def export(
    paths: Paths,
    form: Annotated[Format, typer.Option("--format", help="A template, or a list of documents for the AWS CLI.")],
    region: Annotated[str, typer.Option(help="Completes bare names, with --account; json only.")] = "",
    account: Annotated[str, typer.Option(help="The account's 12 digits; json only.")] = "",
    role: Annotated[str, typer.Option(help="The ARN of the role of actions that name none; json only.")] = "",
) -> None:
    """Print the same rules for AWS IoT Core; exit with 1 when one of them cannot run there.

    A json document is for `aws iot create-topic-rule --cli-input-json`, one rule each.
    """
    with errors_to_exit_codes():
        place = _account(form, region, account, role)
        rules = parse(rules_texts(paths), supported=frozenset(ACTIONS), account=place or Account())
        if form is Format.JSON:
            listed, obstacles = documents(rules, place, role)
            print_json(listed)
        else:
            made, obstacles = template(rules)
            write(_yaml(made).encode())
        for obstacle in obstacles:
            err.print(plain(f"not exported: {obstacle}"), style="red", soft_wrap=True)
        if obstacles:
            raise typer.Exit(EXIT_FAILED)


def schema() -> None:
    """Print the JSON Schema of rules files, for editors."""
    print_json(editor_schema())


def _account(form: Format, region: str, account: str, role: str) -> Account | None:
    if form is Format.CLOUDFORMATION and (region or account or role):
        raise typer.BadParameter("a template gets region, account and role when its stack is created")
    if bool(region) != bool(account):
        raise typer.BadParameter("--region and --account go together")
    if account and not (len(account) == 12 and account.isdecimal() and account.isascii()):
        raise TidegateError(f"an account has 12 digits, not {account[:40]!r}")
    if region and not REGION.fullmatch(region):
        raise TidegateError(f"a region is called like eu-west-1, and not {region[:40]!r}")
    if role and not ROLE.fullmatch(role):
        raise TidegateError(f"the ARN of a role is arn:aws:iam::123456789012:role/NAME, and not {role[:80]!r}")
    return Account(region, account) if region else None


class _Dumper(yaml.SafeDumper):
    """Statements of several lines as they were written; no aliases, which CloudFormation does not know."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text.strip() else '"' if "\n" in text else None
    if _UNFOLDED.search(text):
        style = '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)


def _yaml(document: dict[str, Any]) -> str:
    return yaml.dump(document, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)
