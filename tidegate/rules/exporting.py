"""`tidegate rules export` and `tidegate rules schema`: what other programs want of rules files, on standard output."""

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from core.cli import EXIT_FAILED, err, errors_to_exit_codes, print_json
from core.errors import TidegateError
from core.files import read_texts
from rules.actions import ACTIONS
from rules.files import parse
from rules.files.arns import Account
from rules.files.export import documents, template
from rules.files.schema import schema as editor_schema

Paths = Annotated[list[Path], typer.Argument(metavar="PATH…", help="Rules files, or directories of them.")]


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
        rules = parse(read_texts(paths), supported=frozenset(ACTIONS))
        if form is Format.JSON:
            listed, obstacles = documents(rules, place, role)
            print_json(listed)
        else:
            made, obstacles = template(rules)
            sys.stdout.buffer.write(_yaml(made).encode())
            sys.stdout.flush()
        for obstacle in obstacles:
            err.print(f"not exported: {obstacle}", style="red", soft_wrap=True)
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
    return Account(region, account) if region else None


class _Dumper(yaml.SafeDumper):
    """Statements of several lines as they were written; no aliases, which CloudFormation does not know."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text.strip() else '"' if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)


def _yaml(document: dict[str, Any]) -> str:
    return yaml.dump(document, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)
