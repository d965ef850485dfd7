"""A worker's command line and environment are those of Lambda; our runtime client runs Node handlers unchanged."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from functions.errors import FunctionsError
from functions.manifest import Manifest
from functions.packages.library import Package
from functions.runtimes import RESERVED, base_python, find_node
from functions.workers import runtimes
from tests.runtime_workers import runtime

CLIENT = Path(__file__).parent.parent / "functions" / "worker" / "node" / "bootstrap.mjs"
NODE = find_node(20)


def package(place: Path, name: str = "python3.12", **more: Any) -> Package:
    (place / "code").mkdir(exist_ok=True)
    (place / "layers").mkdir(exist_ok=True)
    return Package(Manifest(name="press", version=7, runtime=name, handler="app.handler", **more), place)


def fake_node(place: Path, monkeypatch: pytest.MonkeyPatch, version: str = "v20.1.0") -> Path:
    """A `node` that comes first on PATH and is not of the system."""
    node = place / "bin" / "node"
    node.parent.mkdir()
    node.write_text(f"#!/bin/sh\necho {version}\n")
    node.chmod(0o755)
    monkeypatch.setenv("PATH", f"{node.parent}:{os.environ['PATH']}")
    return node.resolve()


# -- environment


def test_a_worker_knows_everything_that_lambda_tells(tmp_path: Path) -> None:
    made = package(tmp_path, memory_mb=256, timeout=9, environment={"TABLE": "t"}, encoding="binary")
    variables = runtimes.environment(made, {"AWS_REGION": "eu-west-1", "AWS_ACCESS_KEY_ID": "k"})
    stream = variables.pop("AWS_LAMBDA_LOG_STREAM_NAME")
    assert stream[10:14] == "/[7]"
    assert len(stream) == len("2026/03/01/[7]") + 32
    assert variables == {
        "LANG": "C.UTF-8", "TZ": ":UTC", "PATH": "/usr/local/bin:/usr/bin:/bin:/opt/bin",
        "LD_LIBRARY_PATH": "/var/task:/var/task/lib:/opt/lib", "AWS_XRAY_CONTEXT_MISSING": "LOG_ERROR",
        "PYTHONPATH": "/var/task:/var/lang/site-packages:/opt/python/lib/python3.12/site-packages:/opt/python"
        ":/var/runtime/greengrass",
        "TABLE": "t", "AWS_ACCESS_KEY_ID": "k", "AWS_REGION": "eu-west-1", "AWS_DEFAULT_REGION": "eu-west-1",
        "LAMBDA_TASK_ROOT": "/var/task", "LAMBDA_RUNTIME_DIR": "/var/runtime", "_HANDLER": "app.handler",
        "AWS_LAMBDA_FUNCTION_NAME": "press", "AWS_LAMBDA_FUNCTION_VERSION": "7",
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "256", "AWS_LAMBDA_LOG_GROUP_NAME": "/aws/lambda/press",
        "AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand", "AWS_EXECUTION_ENV": "AWS_Lambda_python3.12",
        "TIDEGATE_TIMEOUT": "9", "TIDEGATE_ENCODING": "binary",
    }  # fmt: skip


def test_lambdas_own_variables_cannot_be_configured(tmp_path: Path) -> None:
    made = package(tmp_path, environment=dict.fromkeys(RESERVED - {"AWS_EXECUTION_ENV"}, "mine"))
    theirs = {"AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s", "AWS_SESSION_TOKEN": "t"}
    variables = runtimes.environment(made, theirs)
    assert {name for name in RESERVED if variables.get(name) == "mine"} <= {
        "AWS_ACCESS_KEY", "AWS_LAMBDA_RUNTIME_API", "_X_AMZN_TRACE_ID",  # set when they are known, or by nobody
    }  # fmt: skip


def test_a_secret_comes_before_what_is_configured(tmp_path: Path) -> None:
    made = package(tmp_path, environment={"PASSWORD": "plain"})
    assert runtimes.environment(made, {"PASSWORD": "secret"})["PASSWORD"] == "secret"


def test_the_others_can_be_configured(tmp_path: Path) -> None:
    made = package(tmp_path, environment={"TZ": "Europe/Berlin", "LANG": "de", "PYTHONPATH": "/var/task/vendored"})
    variables = runtimes.environment(made, {})
    assert (variables["TZ"], variables["LANG"]) == ("Europe/Berlin", "de")
    assert variables["PYTHONPATH"].startswith("/var/task/vendored:/var/task:/var/lang/site-packages:")


def test_each_worker_has_a_log_stream_of_its_own(tmp_path: Path) -> None:
    made = package(tmp_path)
    names = {runtimes.environment(made, {})["AWS_LAMBDA_LOG_STREAM_NAME"] for _ in range(3)}
    assert len(names) == 3


def test_a_pinned_worker_is_told_that_it_is_provisioned(tmp_path: Path) -> None:
    variables = runtimes.environment(package(tmp_path, pinned=True), {})
    assert variables["AWS_LAMBDA_INITIALIZATION_TYPE"] == "provisioned-concurrency"


def test_a_custom_runtime_has_no_execution_environment_and_no_python_path(tmp_path: Path) -> None:
    variables = runtimes.environment(package(tmp_path, "provided.al2023"), {})
    assert "AWS_EXECUTION_ENV" not in variables
    assert "PYTHONPATH" not in variables


def test_node_looks_for_modules_where_lambda_does(tmp_path: Path) -> None:
    places = runtimes.environment(package(tmp_path, "nodejs20.x"), {})["NODE_PATH"].split(":")
    assert places[:3] == ["/opt/nodejs/node20/node_modules", "/opt/nodejs/node_modules", "/var/task"]


# -- command lines and what is shown


def test_python_runs_in_the_first_process(tmp_path: Path) -> None:
    (tmp_path / "layers" / "python").mkdir(parents=True)
    made = runtimes.spec(package(tmp_path, memory_mb=64, tmp_mb=5, network=True), "press-1", {})
    assert (made.name, made.argv, made.interpreter) == ("press-1", (), str(base_python()))
    assert (made.memory_bytes, made.tmp_bytes, made.network) == (64 << 20, 5 << 20, True)
    assert [(bind.source, bind.target) for bind in made.binds] == [
        (tmp_path / "code", "/var/task"),
        (tmp_path / "layers", "/opt"),
    ]


def test_without_layers_opt_is_the_machines(tmp_path: Path) -> None:
    made = runtimes.spec(package(tmp_path), "press-1", {})
    assert [bind.target for bind in made.binds] == ["/var/task"]


def test_what_requirements_named_is_shown(tmp_path: Path) -> None:
    made = runtimes.spec(package(tmp_path, site_packages=True), "press-1", {})
    assert (tmp_path / "site-packages", "/var/lang/site-packages") in [
        (each.source, each.target) for each in made.binds
    ]


def test_the_interpreter_is_the_one_that_was_chosen_at_deployment(tmp_path: Path) -> None:
    chosen = tmp_path / "venv" / "bin" / "python3"
    chosen.parent.mkdir(parents=True)
    chosen.symlink_to(base_python())
    assert runtimes.spec(package(tmp_path, python=str(chosen)), "press-1", {}).interpreter == str(base_python())


def test_python_is_run_by_aws_client_when_that_is_asked_for(tmp_path: Path) -> None:
    made = runtimes.spec(package(tmp_path, environment={"TIDEGATE_RUNTIME_CLIENT": "aws"}), "press-1", {})
    assert made.argv == (made.interpreter, "-m", "awslambdaric", "app.handler")


def test_node_is_bounded_by_the_functions_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    node = fake_node(tmp_path, monkeypatch)
    made = runtimes.spec(package(tmp_path, "nodejs20.x", memory_mb=256), "press-1", {})
    assert made.argv == ("/var/lang/bin/node", "--max-old-space-size=192", "/var/runtime/node/bootstrap.mjs")
    assert [bind.source for bind in made.binds if bind.target == "/var/lang/bin/node"] == [node]


@pytest.mark.parametrize(
    ("where", "inside"), [("code/node_modules", "/var/task"), ("layers/nodejs/node_modules", "/opt")]
)
def test_node_is_run_by_aws_client_when_that_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, inside: str
) -> None:
    fake_node(tmp_path, monkeypatch)
    made = package(tmp_path, "nodejs20.x", environment={"TIDEGATE_RUNTIME_CLIENT": "aws"})
    client = tmp_path / where / "aws-lambda-ric"
    client.mkdir(parents=True)
    (client / "package.json").write_text('{"bin": {"aws-lambda-ric": "bin/index.mjs"}}')
    command = runtimes.spec(made, "press-1", {}).argv
    modules = "node_modules" if inside == "/var/task" else "nodejs/node_modules"
    assert command[2:] == (f"{inside}/{modules}/aws-lambda-ric/bin/index.mjs", "app.handler")


def test_aws_client_must_be_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_node(tmp_path, monkeypatch)
    monkeypatch.setattr(runtimes, "NODE_MODULES", (str(tmp_path),))
    made = package(tmp_path, "nodejs20.x", environment={"TIDEGATE_RUNTIME_CLIENT": "aws"})
    with pytest.raises(FunctionsError, match="aws-lambda-ric is in no node_modules"):
        runtimes.spec(made, "press-1", {})


@pytest.mark.parametrize(("where", "inside"), [("code", "/var/task/bootstrap"), ("layers", "/opt/bootstrap")])
def test_a_custom_runtime_is_its_bootstrap(tmp_path: Path, where: str, inside: str) -> None:
    made = package(tmp_path, "provided.al2023")
    (tmp_path / where / "bootstrap").write_text("#!/bin/sh\n")
    assert runtimes.spec(made, "press-1", {}).argv == (inside,)


@pytest.mark.parametrize("name", ["provided.al2023", "java21"])
def test_what_cannot_be_run_is_said_without_a_traceback(tmp_path: Path, name: str) -> None:
    with pytest.raises(FunctionsError, match=f"press:7: there is nothing that runs {name}"):
        runtimes.spec(package(tmp_path, name), "press-1", {})


# -- our runtime client for Node, where there is a Node

COMMONJS = """
exports.promise = async (event, context) => ({
  event, id: context.awsRequestId, arn: context.invokedFunctionArn, memory: context.memoryLimitInMB,
  subject: context.clientContext.custom.subject, left: context.getRemainingTimeInMillis() > 800000,
  name: context.functionName, version: context.functionVersion, group: context.logGroupName,
  stream: context.logStreamName, trace: process.env._X_AMZN_TRACE_ID,
});
let late = 0;
exports.waits = (event, context, callback) => {
  if (event === 'see') return callback(null, late);
  setTimeout(() => { late += 1; }, 20);
  callback(null, 'said at once');
};
exports.hurries = (event, context, callback) => {
  context.callbackWaitsForEmptyEventLoop = false;
  setTimeout(() => {}, 1e8);
  callback(null, 'now');
};
exports.fails = (event, context, callback) => callback(new RangeError('too high'));
exports.text = (event, context, callback) => callback('only text');
exports.throws = () => { throw new TypeError('broken'); };
exports.rejects = async () => { throw new TypeError('broken'); };
exports.twice = (event, context, callback) => { callback(null, 1); callback(null, 2); context.succeed(3); };
exports.done = (event, context) => context.done(null, 'done');
exports.fail = (event, context) => context.fail(new Error('failed'));
exports.silent = () => {};
exports.undefined = async () => undefined;
exports.hangs = async () => new Promise(() => {});
exports.unserialisable = async () => 1n;
exports.nested = { deep: { handler: async () => 'found' } };
exports.number = 7;
exports.uncaught = () => { setTimeout(() => { throw new Error('lost'); }, 1); };
exports.unhandled = async () => { Promise.reject(new Error('lost')); await new Promise((go) => setTimeout(go, 1000)); };
exports.bytes = async (event) => event.toString('hex');
exports.modules = async () => require('helper');
"""
SUBJECT = b'{"custom": {"subject": "h\xc3\xb6he"}}'


def where_node_is(test: Any) -> Any:
    """Nothing, on a machine without Node: then there is nothing that a test could promise."""
    return test if NODE is not None else None


def node(code: Path, handler: str, **more: Any) -> Any:
    (code / "app.js").write_text(COMMONJS)
    return runtime(code, [NODE or "", CLIENT], handler, **more)


@where_node_is
async def test_node_a_handler_sees_the_event_and_the_context(tmp_path: Path) -> None:
    async with node(tmp_path, "app.promise") as running:
        for count in (1, 2):
            kind, payload = await running.call(b'{"k": 1}', client_context=SUBJECT, trace_id="Root=1-2-3")
            assert (kind, json.loads(payload)) == (
                "done",
                {
                    "event": {"k": 1}, "id": f"00000000-0000-4000-8000-{count:012}", "memory": "128", "left": True,
                    "arn": "arn:aws:lambda:us-east-1:000000000000:function:press:7", "subject": "höhe",
                    "name": "press", "version": "7", "group": "/aws/lambda/press", "trace": "Root=1-2-3",
                    "stream": "2026/03/01/[7]0123456789abcdef",
                },
            )  # fmt: skip


@where_node_is
@pytest.mark.parametrize(
    ("handler", "result"),
    [
        ("hurries", b'"now"'),
        ("twice", b"1"),
        ("done", b'"done"'),
        ("silent", b"null"),
        ("undefined", b"null"),
        ("nested.deep.handler", b'"found"'),
    ],
)
async def test_node_a_handler_may_answer_in_every_way(tmp_path: Path, handler: str, result: bytes) -> None:
    async with node(tmp_path, f"app.{handler}") as running:
        assert await running.call() == ("done", result)
        assert await running.call() == ("done", result)


@where_node_is
async def test_node_an_answer_by_callback_waits_for_what_the_handler_has_begun(tmp_path: Path) -> None:
    async with node(tmp_path, "app.waits") as running:
        assert await running.call(b'"begin"') == ("done", b'"said at once"')
        assert await running.call(b'"see"') == ("done", b"1")


@where_node_is
@pytest.mark.parametrize(
    ("handler", "kind", "message"),
    [
        ("fails", "RangeError", "too high"),
        ("text", "string", "only text"),
        ("throws", "TypeError", "broken"),
        ("rejects", "TypeError", "broken"),
        ("fail", "Error", "failed"),
        ("hangs", "Runtime.NodeJsExit", "never come"),
        ("unserialisable", "Error", "Unable to stringify response body"),
    ],
)
async def test_node_a_failed_handler_is_told_and_goes_on(tmp_path: Path, handler: str, kind: str, message: str) -> None:
    async with node(tmp_path, f"app.{handler}") as running:
        for _ in range(2):
            how, payload = await running.call()
            failure = json.loads(payload)
            assert (how, failure["errorType"]) == ("error", kind)
            assert message in failure["errorMessage"]
            assert isinstance(failure["trace"], list)


@where_node_is
@pytest.mark.parametrize(
    ("handler", "kind", "status"),
    [("uncaught", "Error", 129), ("unhandled", "Runtime.UnhandledPromiseRejection", 128)],
)
async def test_node_what_nobody_caught_is_told_and_ends_the_process(
    tmp_path: Path, handler: str, kind: str, status: int
) -> None:
    async with node(tmp_path, f"app.{handler}") as running:
        how, payload = await running.call()
        assert (how, json.loads(payload)["errorType"]) == ("error", kind)
        assert await running.process.wait() == status


@where_node_is
@pytest.mark.parametrize(
    ("handler", "kind"),
    [
        ("app.missing", "Runtime.HandlerNotFound"),
        ("app.number", "Runtime.HandlerNotFound"),
        ("missing.handler", "Runtime.ImportModuleError"),
        ("needs.handler", "Runtime.ImportModuleError"),
        ("broken.handler", "Runtime.UserCodeSyntaxError"),
        ("raises.handler", "RangeError"),
        ("hangs.handler", "Runtime.NodeJsExit"),
        ("streams.handler", "Runtime.StreamingNotSupported"),
        ("app", "Runtime.MalformedHandlerName"),
        ("../app.promise", "Runtime.MalformedHandlerName"),
    ],
)
async def test_node_a_handler_that_cannot_be_loaded_is_told(tmp_path: Path, handler: str, kind: str) -> None:
    (tmp_path / "needs.js").write_text("require('nowhere')")
    (tmp_path / "broken.js").write_text("exports.handler = (")
    (tmp_path / "raises.js").write_text("throw new RangeError('at the top')")
    (tmp_path / "hangs.mjs").write_text("await new Promise(() => {})")
    (tmp_path / "streams.mjs").write_text("export const handler = awslambda.streamifyResponse(async () => {})")
    async with node(tmp_path, handler) as running:
        error = json.loads((await running.notes.until("init_failed"))[0][1])
        assert error["errorType"] == kind
        assert await running.process.wait() == 1


@where_node_is
async def test_node_modules_of_every_kind_are_loaded(tmp_path: Path) -> None:
    (tmp_path / "module.mjs").write_text("await null; export const handler = async () => 'mjs'")
    (tmp_path / "common.cjs").write_text("exports.handler = async () => 'cjs'")
    (tmp_path / "typed").mkdir()
    (tmp_path / "typed" / "package.json").write_text('{"type": "module"}')
    (tmp_path / "typed" / "app.js").write_text("await null; export const handler = async () => 'typed'")
    (tmp_path / "index").mkdir()
    (tmp_path / "index" / "index.js").write_text("exports.handler = async () => 'index'")
    for handler, result in [("module", "mjs"), ("common", "cjs"), ("typed/app", "typed"), ("index", "index")]:
        async with node(tmp_path, f"{handler}.handler") as running:
            assert await running.call() == ("done", f'"{result}"'.encode())


@where_node_is
async def test_node_modules_are_found_in_the_package_and_in_layers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = tmp_path / "layer" / "helper"
    layer.mkdir(parents=True)
    (layer / "index.js").write_text("module.exports = 'layer'")
    async with node(tmp_path, "app.modules", NODE_PATH=str(layer.parent)) as running:
        assert await running.call() == ("done", b'"layer"')
    own = tmp_path / "node_modules" / "helper"
    own.mkdir(parents=True)
    (own / "index.js").write_text("module.exports = 'package'")
    async with node(tmp_path, "app.modules", NODE_PATH=str(layer.parent)) as running:
        assert await running.call() == ("done", b'"package"')


@where_node_is
async def test_node_binary_events_are_bytes(tmp_path: Path) -> None:
    async with node(tmp_path, "app.bytes", encoding="binary") as running:
        assert await running.call(b"\x00\xff") == ("done", b'"00ff"')


@where_node_is
async def test_node_an_event_that_is_no_json_fails(tmp_path: Path) -> None:
    async with node(tmp_path, "app.silent") as running:
        how, payload = await running.call(b"{")
        assert (how, json.loads(payload)["errorType"]) == ("error", "SyntaxError")
        assert await running.call() == ("done", b"null")
