"""`tidegate functions deploy`: a template, a directory or a zip becomes new versions, and the daemon is told.

Everything is checked before anything is installed: the template, the packages' handlers, the rules together with those
that are there already. Each function is installed atomically (`functions.packages.library`); when one of several fails,
those before it are taken back, so that a template is deployed whole or not at all.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from core.cli import Json, err, errors_to_exit_codes, out, plain, print_json
from core.errors import TidegateError
from core.files import read_texts
from functions.manifest import Manifest
from functions.names import LATEST
from functions.packages.library import Library, Package
from functions.packages.staging import Draft, rehearse
from rules.files import parse
from tidegate.functions.drafts import Options, described_in, draft
from tidegate.functions.options import DEFAULT_CONFIG, Config, Site, load_site

PathToDeploy = Annotated[
    Path, typer.Argument(metavar="PATH", help="A SAM template, a directory with one, or a package: directory or zip.")
]
Only = Annotated[list[str] | None, typer.Option("--function", help="Only this function of the template.")]
Wheels = Annotated[Path | None, typer.Option("--wheels", help="Install requirements from this directory alone.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Check, say what would be done, and change nothing.")]
NoInstall = Annotated[bool, typer.Option("--no-install", help="Install no requirements: the package has them all.")]


def deploy(
    path: PathToDeploy,
    only: Only = None,
    name: Annotated[str, typer.Option(help="Of a package without a template: the function's name.")] = "",
    runtime: Annotated[str, typer.Option(help="Its runtime: python3.12, nodejs20.x, provided.al2023.")] = "",
    handler: Annotated[str, typer.Option(help="Its handler: app.handler is handler() in app.py.")] = "",
    timeout: Annotated[int, typer.Option(min=1, max=900, help="Seconds.")] = 3,
    memory: Annotated[int, typer.Option(min=16, max=10_240, help="MB.")] = 128,
    environment: Annotated[list[str] | None, typer.Option("--env", metavar="KEY=VALUE")] = None,
    topic: Annotated[list[str] | None, typer.Option(help="A topic filter whose messages are events.")] = None,
    pinned: Annotated[bool, typer.Option("--pinned", help="One worker, for as long as the daemon runs.")] = False,
    alias: Annotated[str, typer.Option(help="An alias to move to the new version.")] = "",
    wheels: Wheels = None, dry_run: DryRun = False, no_install: NoInstall = False,
    config: Config = DEFAULT_CONFIG, as_json: Json = False,
) -> None:  # fmt: skip
    """Deploy every function of a SAM template, or one package, as new versions.

    tidegate functions deploy template.yaml
    tidegate functions deploy src/ --name press-alarm --runtime python3.12 --handler app.handler
    """
    options = Options(name, runtime, handler, timeout, memory, environment or (), topic or (), pinned, alias)
    with errors_to_exit_codes():
        site = load_site(config)
        described = described_in(path, site, options, frozenset(only or ()))
        drafts = [draft(each, wheels, install=not no_install) for each in described]
        _check(site, drafts, tell=dry_run)
        if dry_run:
            _print([_plan(draft) for draft in drafts], "nothing is changed", as_json)
            return
        packages = _install(site.library, drafts)
        told = site.tell()
    rows = [_facts(package) for package in packages]
    _print(rows, told, as_json)


def deploy_template(path: Path, site: Site) -> list[Package]:
    """Deploy every function of a template where no daemon runs yet. Raises ConfigurationError, TidegateError."""
    drafts = [draft(each, None, install=True) for each in described_in(path, site, Options(), frozenset())]
    _check(site, drafts)
    return _install(site.library, drafts)


# ── checking and installing ─────────────────────────────────────────────────────────────────────────────────


def _check(site: Site, drafts: Sequence[Draft], *, tell: bool = False) -> None:
    """Refuse what would not work, before anything is installed; `tell` warnings, which else the installation does.

    Raises ConfigurationError, BadPackage, RulesError.
    """
    for each in drafts:
        for warning in rehearse(each):
            if tell:
                err.print(f"{each.manifest.name}: {plain(warning)}", style="yellow", soft_wrap=True)
    _check_rules(site, drafts)


def _check_rules(site: Site, drafts: Sequence[Draft]) -> None:
    """Read the new rules together with all others, as the daemon will. Raises RulesError."""
    texts = read_texts(site.rules.directory) if site.rules is not None else {}
    new = {draft.manifest.name: draft.rules for draft in drafts}
    for path, text in site.library.rules().items():
        if Path(path).relative_to(site.functions.directory).parts[0] not in new:
            texts[path] = text
    texts |= {f"{name}/rules.json": text for name, text in new.items() if text is not None}
    parse(texts, supported=site.actions, account=site.account)


def _install(library: Library, drafts: Sequence[Draft]) -> list[Package]:
    """Install all of them, or none."""
    packages: list[Package] = []
    with _all_or_none(library, packages, [draft.manifest for draft in drafts]):
        for draft in drafts:
            name = draft.manifest.name
            err.print(f"{name}: unpacking{_words(draft)}", soft_wrap=True)
            packages.append(library.install(draft, partial(_say, name)))
    return packages


def _say(name: str, line: str) -> None:
    err.print(f"{name}: {plain(line)}", soft_wrap=True)


@contextmanager
def _all_or_none(library: Library, packages: list[Package], manifests: Sequence[Manifest]) -> Iterator[None]:
    """When the block fails, the aliases name what they named before, and the new versions are gone."""
    before: dict[str, dict[str, int]] = {}
    for manifest in manifests:
        with suppress(TidegateError):
            before[manifest.name] = library.aliases(manifest.name)
    try:
        yield
    except BaseException:
        for package in packages:
            _take_back(library, package, before.get(package.manifest.name))
        raise


def _take_back(library: Library, package: Package, aliases: dict[str, int] | None) -> None:
    name, alias = package.manifest.name, package.manifest.alias
    if aliases is None:
        library.remove(name)
        return
    library.point(name, LATEST, aliases[LATEST])
    if alias is not None and alias in aliases:
        library.point(name, alias, aliases[alias])
    elif alias is not None:
        library.unalias(name, alias)
    library.remove(name, package.manifest.version)


def _words(draft: Draft) -> str:
    return f", installing {', '.join(draft.requirements)}" if draft.requirements else ""


def _plan(draft: Draft) -> dict[str, Any]:
    return {
        "name": draft.manifest.name, "version": None, "alias": draft.manifest.alias, "runtime": draft.manifest.runtime,
        "requirements": list(draft.requirements), "rules": draft.rules is not None,
    }  # fmt: skip


def _facts(package: Package) -> dict[str, Any]:
    found = package.manifest
    return {
        "name": found.name, "version": found.version, "alias": found.alias, "runtime": found.runtime,
        "bytes": found.code_bytes, "code_sha256": found.code_sha256, "python": found.python,
    }  # fmt: skip


def _print(rows: list[dict[str, Any]], told: str, as_json: bool) -> None:
    if as_json:
        print_json({"functions": rows, "daemon": told})
        return
    for row in rows:
        number = f":{row['version']}" if row["version"] is not None else " would be deployed"
        alias = f", and {row['alias']} names it" if row["alias"] else ""
        out.print(f"{row['name']}{number}{alias}", soft_wrap=True)
    out.print(told, soft_wrap=True)
