"""From a version of a function to what the launcher starts: command line, environment, and what the sandbox shows.

A worker sees its code as /var/task, its layers as /opt, what requirements.txt named as /var/lang/site-packages, and a
Node that is outside of /usr as /var/lang/bin/node. Its environment is exactly what stands here, beside the addresses of
the Runtime API and of the endpoint, which are known only inside (`functions.worker`).

Will not start anything, nor decide how a bound is enforced or where an interpreter's libraries are: the launcher does.

Invariant: variables of Lambda's own cannot be configured; they are put last.
"""

import json
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from functions.errors import FunctionsError
from functions.launcher.client import Bind, WorkerSpec
from functions.names import REGION
from functions.packages.library import Package
from functions.runtimes import (
    CLIENT_VARIABLE,
    LAYERS_ROOT,
    NODE_MODULES,
    RUNTIME_DIR,
    TASK_ROOT,
    base_python,
    find_bootstrap,
    find_node,
    is_provided,
    node_version,
    python_version,
)

SITE_PACKAGES = "/var/lang/site-packages"
NODE = "/var/lang/bin/node"
PROCESSES = 256  # and threads: Node has a dozen, thread pools of SDKs tens; Lambda allows 1,024 on larger machines
NODE_OVERHEAD_MB = 64  # of Node's memory that is not the heap of the handler
AWS_CLIENTS = {"python": "awslambdaric", "nodejs": "aws-lambda-ric"}


def spec(package: Package, name: str, variables: Mapping[str, str]) -> WorkerSpec:
    """What to start for one worker of a version; with an empty `argv` it is a Python worker on the fast path.

    `variables` are what is known only now: secrets, credentials, AWS_REGION. Raises FunctionsError when the machine
    has no longer what the runtime needs.
    """
    manifest = package.manifest
    argv, binds = _command(package)
    python = base_python(manifest.python if python_version(manifest.runtime) else None)
    return WorkerSpec(
        name=name,
        argv=argv,
        interpreter=str(python),
        environment=environment(package, variables),
        binds=(*_shown(package), *binds),
        memory_bytes=manifest.memory_mb << 20,
        tmp_bytes=manifest.tmp_mb << 20,
        processes=PROCESSES,
        network=manifest.network,
    )


# -- command lines ----------------------------------------------------------------------------------------------------


def _command(package: Package) -> tuple[tuple[str, ...], tuple[Bind, ...]]:
    manifest = package.manifest
    by_aws = manifest.environment.get(CLIENT_VARIABLE) == "aws"
    if python_version(manifest.runtime) is not None:
        python = str(base_python(manifest.python))
        return ((python, "-m", AWS_CLIENTS["python"], manifest.handler) if by_aws else ()), ()
    if (major := node_version(manifest.runtime)) is not None:
        return _node_command(package, major, by_aws=by_aws)
    if is_provided(manifest.runtime) and (bootstrap := find_bootstrap(package.code, package.layers)) is not None:
        return (bootstrap,), ()
    raise FunctionsError(
        f"{package.function}: there is nothing that runs {manifest.runtime}; deploy it again to see why"
    )


def _node_command(package: Package, major: int, *, by_aws: bool) -> tuple[tuple[str, ...], tuple[Bind, ...]]:
    manifest = package.manifest
    node = find_node(major)
    if node is None:
        raise FunctionsError(f"{package.function}: there is no node on this machine any more; install Node {major}")
    heap = max(manifest.memory_mb // 2, manifest.memory_mb - NODE_OVERHEAD_MB)
    binds = () if _is_system(node) else (Bind(node, NODE),)
    started = (NODE if binds else str(node), f"--max-old-space-size={heap}")
    if by_aws:
        return (*started, _aws_node_client(package), manifest.handler), binds
    return (*started, f"{RUNTIME_DIR}/node/bootstrap.mjs"), binds


def _aws_node_client(package: Package) -> str:
    """The program of aws-lambda-ric, as the worker sees it: of the package, of a layer, or of the machine."""
    shown = [(package.code, TASK_ROOT, "node_modules"), (package.layers, LAYERS_ROOT, "nodejs/node_modules")]
    shown += [(Path(directory), directory, "") for directory in NODE_MODULES]
    for outside, inside, modules in shown:
        client = Path(modules, AWS_CLIENTS["nodejs"])
        try:
            program = json.loads((outside / client / "package.json").read_bytes())["bin"][AWS_CLIENTS["nodejs"]]
            return str(Path(inside, client, program))
        except (OSError, ValueError, KeyError, TypeError):
            continue
    raise FunctionsError(f"{package.function}: {CLIENT_VARIABLE} is aws, but aws-lambda-ric is in no node_modules")


# -- what is shown ----------------------------------------------------------------------------------------------------


def _shown(package: Package) -> tuple[Bind, ...]:
    shown = [Bind(package.code, TASK_ROOT)]
    if package.layers.is_dir() and any(package.layers.iterdir()):  # nothing hides what the machine may have in /opt
        shown.append(Bind(package.layers, LAYERS_ROOT))
    if package.site_packages is not None:
        shown.append(Bind(package.site_packages, SITE_PACKAGES))
    return tuple(shown)


def _is_system(path: Path) -> bool:
    return path.is_relative_to("/usr") or path.is_relative_to("/bin")


# -- environment ------------------------------------------------------------------------------------------------------


def environment(package: Package, variables: Mapping[str, str]) -> dict[str, str]:
    """Every variable of a worker: Lambda's defaults, what the function configures, secrets, and Lambda's own."""
    manifest = package.manifest
    chosen = {**_defaults(manifest.runtime), **manifest.environment, **variables}
    if (version := python_version(manifest.runtime)) is not None:
        chosen["PYTHONPATH"] = ":".join(filter(None, (chosen.get("PYTHONPATH"), _python_path(version))))
    region = variables.get("AWS_REGION", REGION)
    own = {
        "LAMBDA_TASK_ROOT": TASK_ROOT,
        "LAMBDA_RUNTIME_DIR": RUNTIME_DIR,
        "_HANDLER": manifest.handler,
        "AWS_REGION": region,
        "AWS_DEFAULT_REGION": region,
        "AWS_LAMBDA_FUNCTION_NAME": manifest.name,
        "AWS_LAMBDA_FUNCTION_VERSION": str(manifest.version),
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(manifest.memory_mb),
        "AWS_LAMBDA_LOG_GROUP_NAME": f"/aws/lambda/{manifest.name}",
        "AWS_LAMBDA_LOG_STREAM_NAME": f"{datetime.now(UTC):%Y/%m/%d}/[{manifest.version}]{uuid.uuid4().hex}",
        "AWS_LAMBDA_INITIALIZATION_TYPE": "provisioned-concurrency" if manifest.pinned else "on-demand",
        "TIDEGATE_TIMEOUT": str(manifest.timeout),
        "TIDEGATE_ENCODING": manifest.encoding,
    }
    if not is_provided(manifest.runtime):
        own["AWS_EXECUTION_ENV"] = f"AWS_Lambda_{manifest.runtime}"
    return {**chosen, **own}


def _defaults(runtime: str) -> dict[str, str]:
    """What a function may configure otherwise."""
    defaults = {
        "LANG": "C.UTF-8",  # Lambda's en_US.UTF-8 is not installed everywhere
        "TZ": ":UTC",
        "PATH": "/usr/local/bin:/usr/bin:/bin:/opt/bin",
        "LD_LIBRARY_PATH": "/var/task:/var/task/lib:/opt/lib",
        "AWS_XRAY_CONTEXT_MISSING": "LOG_ERROR",
    }
    if (major := node_version(runtime)) is not None:
        places = (f"/opt/nodejs/node{major}/node_modules", "/opt/nodejs/node_modules", TASK_ROOT, *NODE_MODULES)
        defaults["NODE_PATH"] = ":".join(places)
    return defaults


def _python_path(version: str) -> str:
    """Where modules are: the package, what it requires, the layers (in the two ways that Lambda knows), Greengrass."""
    layers = (f"{LAYERS_ROOT}/python/lib/python{version}/site-packages", f"{LAYERS_ROOT}/python")
    return ":".join((TASK_ROOT, SITE_PACKAGES, *layers, f"{RUNTIME_DIR}/greengrass"))
