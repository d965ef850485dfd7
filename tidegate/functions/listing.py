"""`tidegate functions list`, `show` and `status`: what is deployed, and what the daemon does with it.

What is deployed is read from the disk, daemon or not; only `status` asks the daemon.
"""

from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from core.cli import Json, errors_to_exit_codes, out, plain, print_facts, print_json, print_rows
from functions.names import LATEST, FunctionName
from functions.packages.library import Library, Package
from functions.packages.staging import RULES
from tidegate.functions.options import DEFAULT_CONFIG, Config, Name, load_site

# Facts of a manifest that say nothing when they are empty, or are shown elsewhere.
_QUIET = ("description", "architecture", "environment", "environment_secrets", "topics", "schedules", "queues",
          "on_success", "on_failure", "dead_letter", "alias", "layers", "site_packages", "python")  # fmt: skip


def list_functions(config: Config = DEFAULT_CONFIG, as_json: Json = False) -> None:
    """Every function: the version that events go to, its aliases, runtime and size."""
    with errors_to_exit_codes():
        library = load_site(config).library
        rows = [_row(library, package) for package in library.current()]
        problems = library.problems()
    print_rows(rows, as_json=as_json)
    if not as_json:
        for problem in problems:
            out.print(f"damaged: {problem}", style="red", soft_wrap=True)


def show(name: Name, config: Config = DEFAULT_CONFIG, as_json: Json = False) -> None:
    """One version of a function, the current one if none is named, and every version that is there."""
    with errors_to_exit_codes():
        library = load_site(config).library
        function = FunctionName.parse(name)
        package = _current(library, function)
        facts = _facts(package)
        versions = [_version(library, each) for each in library.versions(function.name)]
    if as_json:
        print_json({**facts, "versions": versions})
        return
    schedules = [f"{one['name']} {one['expression']} {one['timezone']}" for one in facts["schedules"]]
    queues = [f"{one['queue']} by {one['batch_size']}" for one in facts["queues"]]
    told = facts | {"schedules": schedules, "queues": queues}
    print_facts({key: value for key, value in told.items() if value or key not in _QUIET})
    out.print()
    print_rows(versions, title="versions")


def status(
    name: Annotated[str, typer.Argument(metavar="[NAME]", help="Only this function.")] = "",
    config: Config = DEFAULT_CONFIG,
    as_json: Json = False,
) -> None:
    """What the running daemon does: the sandbox's layers that hold, workers, queues, numbers and times."""
    with errors_to_exit_codes():
        site, function = load_site(config), FunctionName.parse(name).name if name else None
        facts = site.ask("functions-status", function=function)
        if function is not None and not facts["functions"]:
            site.library.find(FunctionName(function))  # says that there is none
    if as_json:
        print_json(facts)
        return
    print_facts(facts["sandbox"], title="sandbox")
    functions, queues = facts["functions"], facts["queues"]
    if name:
        for one in functions:
            out.print()
            print_facts(one, title=f"{one['function']}:{one['version']}")
    elif functions:
        out.print()
        print_rows(map(_brief, functions), title="functions")
    if queues:
        out.print()
        print_rows(queues, title="queues")
    out.print()
    print_facts({key: value for key, value in facts.items() if isinstance(value, int)})
    for problem in [*_problems(functions), *facts["problems"]]:
        out.print(plain(problem), style="red", soft_wrap=True)


def _brief(one: dict[str, Any]) -> dict[str, Any]:
    """What a line of the status has room for; --json and a function's own status have everything."""
    counted = ("in_flight", "waiting", "invocations", "errors", "timeouts", "crashes", "throttles")
    return {
        "function": f"{one['function']}:{one['version']}",
        "workers": f"{one['workers']} of {one['concurrency']}",
        **{name: one[name] for name in counted},
        "p50_ms": one["duration_ms"]["p50"],
        "p99_ms": one["duration_ms"]["p99"],
    }


def _problems(functions: list[dict[str, Any]]) -> list[str]:
    return [f"{one['function']}:{one['version']}: {one['problem']}" for one in functions if one["problem"]]


def _current(library: Library, function: FunctionName) -> Package:
    if function.qualifier != LATEST:
        return library.find(function)
    current = [package for package in library.current() if package.manifest.name == function.name]
    return current[0] if current else library.find(function)


def _row(library: Library, package: Package) -> dict[str, Any]:
    found = package.manifest
    return {
        "name": found.name,
        "version": found.version,
        "aliases": _aliases(library, found.name, found.version),
        "runtime": found.runtime,
        "bytes": found.code_bytes,
        "deployed": time_of(found.created_ms),
    }


def _version(library: Library, package: Package) -> dict[str, Any]:
    found = package.manifest
    return {
        "version": found.version,
        "aliases": _aliases(library, found.name, found.version),
        "runtime": found.runtime,
        "bytes": found.code_bytes,
        "code_sha256": found.code_sha256,
        "deployed": time_of(found.created_ms),
    }


def _facts(package: Package) -> dict[str, Any]:
    found = package.manifest.model_dump(mode="json")
    found["deployed"] = time_of(found.pop("created_ms"))
    rules = package.path / RULES
    found["rules"] = str(rules) if rules.exists() else None
    found["path"] = str(package.path)
    return found


def _aliases(library: Library, name: str, version: int) -> list[str]:
    return sorted(alias for alias, number in library.aliases(name).items() if number == version)


def time_of(ms: int) -> str:
    """Milliseconds since the epoch as people read them, in UTC."""
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
