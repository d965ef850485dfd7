"""Which runtimes there are, what each needs on this machine, and which environment variables are Lambda's own.

Python runs in the worker's own process, Node with our runtime client or with AWS's, and `provided.*` is an executable
named `bootstrap` that speaks the Runtime API: a Go or Rust program, or a script. A version in a name says what the
handler was written for; what runs it is the interpreter that the machine has, and `check` says when they differ.
The other runtimes of Lambda are refused, with the way that leads on.

Will not start anything (`functions.workers.runtimes` makes the command line of a worker), nor choose a Python: that is
done when the version's environment is built (`functions.packages.environments`), and stands in the manifest.
"""

import os
import platform
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path

from core.errors import ConfigurationError
from functions.manifest import Manifest

RESERVED = frozenset((
    *("_HANDLER", "_X_AMZN_TRACE_ID", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_EXECUTION_ENV"),
    *("AWS_LAMBDA_FUNCTION_NAME", "AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "AWS_LAMBDA_FUNCTION_VERSION"),
    *("AWS_LAMBDA_INITIALIZATION_TYPE", "AWS_LAMBDA_LOG_GROUP_NAME", "AWS_LAMBDA_LOG_STREAM_NAME"),
    *("AWS_ACCESS_KEY", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"),
    *("AWS_LAMBDA_RUNTIME_API", "LAMBDA_TASK_ROOT", "LAMBDA_RUNTIME_DIR", "TIDEGATE_TIMEOUT", "TIDEGATE_ENCODING"),
))  # fmt: skip
"""Variables that a function cannot configure (Lambda developer guide, and two of ours)."""

CLIENT_VARIABLE = "TIDEGATE_RUNTIME_CLIENT"
"""Set to "aws", a Python or Node function is run by AWS's own runtime client, which the package brings."""

TASK_ROOT = "/var/task"
LAYERS_ROOT = "/opt"
RUNTIME_DIR = "/var/runtime"
NODE_MODULES = ("/usr/local/lib/node_modules", "/usr/lib/node_modules", "/usr/share/nodejs")  # npm's, npm's, Debian's
NODE_MEMORY_MB_MIN = 64  # Node has 45 MB before it runs a line of the handler
NODE_MIN = 18  # what our runtime client is written for
VERSION_SECONDS = 10.0  # for `node --version` on the slowest card

_PYTHON = re.compile(r"python(3\.(?:[6-9]|1[0-4]))")
_NODE = re.compile(r"nodejs(1[02468]|2[024])\.x")
_PROVIDED = frozenset(("provided", "provided.al2", "provided.al2023"))
_VARIABLE = re.compile(r"[a-zA-Z][a-zA-Z0-9_]+", re.ASCII)  # Lambda's pattern
_DIRECTORIES = ("/usr/local/bin", "/usr/bin", "/bin", "/opt/node/bin", "/opt/nodejs/bin")  # under systemd PATH is short
_CUSTOM = "as a custom runtime: Runtime: provided.al2023, and an executable named bootstrap in the package"
_OTHERS = {
    "go": f"build the program {_CUSTOM} (GOOS=linux go build -o bootstrap)",
    "dotnet": f"publish the function {_CUSTOM} (dotnet publish with PublishAot and the assembly name bootstrap)",
    "java": f"build it {_CUSTOM} (a native image, or a script that starts the JVM with AWS's runtime client)",
    "ruby": f"package it {_CUSTOM} (a script that starts aws_lambda_ric)",
    "python": "port it to Python 3.11 or later and write python3.11",
    "nodejs": "write nodejs20.x",
}
_MACHINES = {3: "i386", 40: "arm", 62: "x86_64", 183: "aarch64", 243: "riscv64"}  # e_machine in ELF
_RUNS = {
    "x86_64": {"x86_64", "i386"}, "i686": {"i386"}, "aarch64": {"aarch64", "arm"}, "riscv64": {"riscv64"},
    "armv8l": {"arm"}, "armv7l": {"arm"}, "armv6l": {"arm"},
}  # fmt: skip
_ARCHITECTURES = {"x86_64": "x86_64", "arm64": "aarch64"}  # Lambda's word, the kernel's


def python_version(runtime: str) -> str | None:
    """The "3.12" of python3.12; None when the runtime is no Python."""
    match = _PYTHON.fullmatch(runtime)
    return match[1] if match else None


def node_version(runtime: str) -> int | None:
    """The 20 of nodejs20.x; None when the runtime is no Node."""
    match = _NODE.fullmatch(runtime)
    return int(match[1]) if match else None


def is_provided(runtime: str) -> bool:
    """Whether the package brings its own runtime, as `bootstrap`."""
    return runtime in _PROVIDED


def check(manifest: Manifest, code: Path, layers: Path) -> list[str]:
    """What is worth a warning about a version before it is deployed.

    `code` and `layers` are what the worker will see as /var/task and /opt. Raises ConfigurationError with everything
    that keeps the version from running on this machine.
    """
    runtime, problems, warnings = manifest.runtime, _variables(manifest), list[str]()
    if python_version(runtime) is not None:
        pass  # whoever builds its environment has found an interpreter, or said that there is none
    elif (major := node_version(runtime)) is not None:
        _check_node(manifest, major, problems, warnings)
    elif is_provided(runtime):
        problems += _about_bootstrap(code, layers)
    else:
        family = re.match(r"[a-z]*", runtime)
        way = _OTHERS.get(family[0] if family else "", f"build it {_CUSTOM}")
        problems.append(f"Runtime {runtime or '(none)'}: is not run here; {way}")
    if problems:
        raise ConfigurationError(manifest.name, problems)
    built, machine = _ARCHITECTURES.get(manifest.architecture), platform.machine()
    if built is not None and built != machine and not is_provided(runtime):
        words = f"Architectures: {manifest.architecture}, but this machine is {machine}"
        warnings.append(f"{words}; compiled modules in the package will not load")
    return warnings


def _variables(manifest: Manifest) -> list[str]:
    problems = []
    for name, value in {**manifest.environment, **dict.fromkeys(manifest.environment_secrets, "")}.items():
        if name in RESERVED:
            problems.append(f"Environment {name}: this variable is Lambda's own and cannot be configured")
        elif not _VARIABLE.fullmatch(name) or "\0" in value:
            problems.append(f"Environment {name[:100]!r}: a name has two or more letters, digits or _, a letter first")
    return problems


# -- Python and Node --------------------------------------------------------------------------------------------------


def base_python(python: str | None = None) -> Path:
    """The interpreter itself behind a path that may be a virtual environment's; the daemon's own by default."""
    own: str = getattr(sys, "_base_executable", "") or sys.executable
    return Path(python or own).resolve()


def find_node(major: int) -> Path | None:
    """Node on this machine: one that is named for its version, as node20, before whatever `node` is."""
    places = os.pathsep.join((os.environ.get("PATH", ""), *_DIRECTORIES))
    for name in (f"node{major}", f"node-{major}", f"nodejs{major}", "node", "nodejs"):
        if (found := shutil.which(name, path=places)) is not None:
            return Path(found).resolve()
    return None


def _check_node(manifest: Manifest, wanted: int, problems: list[str], warnings: list[str]) -> None:
    node = find_node(wanted)
    if node is None:
        problems.append(f"Runtime nodejs{wanted}.x: there is no node on this machine; install Node {wanted} or later")
        return
    version = _version_of(node)
    if version < NODE_MIN:
        problems.append(f"Runtime nodejs{wanted}.x: {node} is older than Node {NODE_MIN}, or does not start")
    elif version != wanted:
        warnings.append(f"Runtime nodejs{wanted}.x: runs with Node {version}, {node}")
    if manifest.memory_mb < NODE_MEMORY_MB_MIN:
        warnings.append(f"MemorySize {manifest.memory_mb}: Node needs {NODE_MEMORY_MB_MIN} MB to start")


def _version_of(node: Path) -> int:
    try:
        said = subprocess.run([node, "--version"], capture_output=True, text=True, timeout=VERSION_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError):
        return 0
    match = re.match(r"v(\d+)\.", said.stdout)
    return int(match[1]) if match else 0


# -- bootstrap --------------------------------------------------------------------------------------------------------


def find_bootstrap(code: Path, layers: Path) -> str | None:
    """Where a worker finds its bootstrap; None when the package has none."""
    for directory, inside in ((code, TASK_ROOT), (layers, LAYERS_ROOT)):
        if (directory / "bootstrap").is_file():
            return f"{inside}/bootstrap"
    return None


def _about_bootstrap(code: Path, layers: Path) -> list[str]:
    inside = find_bootstrap(code, layers)
    if inside is None:
        return ["bootstrap: provided.* needs an executable of this name at the top of the package or of a layer"]
    file = (code if inside.startswith(TASK_ROOT) else layers) / "bootstrap"
    if not file.stat().st_mode & stat.S_IXUSR:
        return ["bootstrap: is not executable; chmod +x bootstrap before it is packed"]
    with file.open("rb") as opened:
        head = opened.read(256)
    if head.startswith(b"#!"):
        return _about_script(head)
    if not head.startswith(b"\x7fELF") or len(head) < 20:
        return ["bootstrap: is neither a program for Linux nor a script that begins with #!"]
    number = int.from_bytes(head[18:20], "little" if head[5] == 1 else "big")
    built, machine = _MACHINES.get(number, f"machine {number}"), platform.machine()
    if built not in _RUNS.get(machine, {machine}):
        return [f"bootstrap: is built for {built}, this machine is {machine}; build it for this one"]
    return []


def _about_script(head: bytes) -> list[str]:
    line, ended, _ = head[2:].partition(b"\n")
    if ended and line.endswith(b"\r"):
        return ["bootstrap: its lines end as on Windows; convert them (dos2unix bootstrap)"]
    words = line.decode(errors="replace").split()
    if not words:
        return ["bootstrap: #! names no interpreter"]
    brought = words[0].startswith((f"{TASK_ROOT}/", f"{LAYERS_ROOT}/"))
    if not brought and not Path(words[0]).exists():
        return [f"bootstrap: #! names {words[0][:100]}, which this machine does not have"]
    return []
