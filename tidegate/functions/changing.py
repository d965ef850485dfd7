"""`tidegate functions rollback`, `alias` and `remove`: which version runs, and which are there.

Versions are never changed; aliases move, atomically, and the daemon is told. Workers that are busy with an event end
it in the version that they have.
"""

from typing import Annotated

import typer

from core.cli import Json, errors_to_exit_codes, out, print_json
from core.errors import TidegateError
from functions.names import LATEST, FunctionName
from functions.packages.library import Library
from tidegate.functions.options import DEFAULT_CONFIG, Config, Site, Whole, load_site, whole


def rollback(
    name: Whole,
    to: Annotated[int | None, typer.Option("--to", min=1, help="A version; by default the one before.")] = None,
    config: Config = DEFAULT_CONFIG,
    as_json: Json = False,
) -> None:
    """Let events go to an older version again: $LATEST, and the alias that was published with it, name it."""
    with errors_to_exit_codes():
        site = load_site(config)
        library, function = site.library, whole(name, "{} and --to VERSION")
        current = next((each for each in library.current() if each.manifest.name == function), None)
        current = current or library.find(FunctionName(function))
        target = to if to is not None else _before(library, function, current.manifest.version)
        alias = current.manifest.alias
        if alias is not None and alias in library.aliases(function):
            library.point(function, alias, target)
        library.point(function, LATEST, target)
        _report(site, as_json, f"{function}: events go to version {target}", name=function, version=target)


def move_alias(
    name: Whole,
    alias: Annotated[str, typer.Argument(metavar="ALIAS")],
    version: Annotated[int | None, typer.Argument(metavar="VERSION", help="The version that it shall name.")] = None,
    delete: Annotated[bool, typer.Option("--delete", help="Forget the alias.")] = False,
    config: Config = DEFAULT_CONFIG,
    as_json: Json = False,
) -> None:
    """Let an alias name a version; --delete forgets the alias."""
    with errors_to_exit_codes():
        if (version is None) != delete:
            raise typer.BadParameter("say which version the alias shall name, or --delete")
        site, function = load_site(config), whole(name, "{} and then the alias and its version")
        if version is None:
            site.library.unalias(function, alias)
            words = f"{function}:{alias} is gone"
        else:
            site.library.point(function, alias, version)
            words = f"{function}:{alias} is version {version}"
        _report(site, as_json, words, name=function, alias=alias, version=version)


def remove(
    name: Whole,
    version: Annotated[int | None, typer.Option(min=1, help="Only this version; no alias may name it.")] = None,
    config: Config = DEFAULT_CONFIG,
    as_json: Json = False,
) -> None:
    """Remove a function with its versions, aliases and rules, or one version of it."""
    with errors_to_exit_codes():
        site, function = load_site(config), whole(name, "{} and --version VERSION")
        site.library.remove(function, version)
        words = f"{function} is removed" if version is None else f"{function}:{version} is removed"
        _report(site, as_json, words, name=function, version=version)


def _before(library: Library, name: str, current: int) -> int:
    """The version before the current one."""
    older = [each.manifest.version for each in library.versions(name) if each.manifest.version < current]
    if not older:
        raise TidegateError(f"{name} has no version before {current}; see `tidegate functions show {name}`")
    return max(older)


def _report(site: Site, as_json: bool, words: str, **facts: object) -> None:
    told = site.tell()
    if as_json:
        print_json({**facts, "daemon": told})
        return
    out.print(words, soft_wrap=True)
    out.print(told, soft_wrap=True)
