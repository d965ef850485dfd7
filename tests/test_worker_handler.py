"""functions.worker.handler: the same handlers through AWS's runtime client, awslambdaric, and through our worker.

Results, error objects, the context and what is written to the log are compared byte for byte.
"""

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.fast_workers import environment, worker
from tests.reference_runtime import reference_runtime

APP = '''
import asyncio, collections, decimal, json, logging, os, sys

log = logging.getLogger("app.module")
print("loading")
COUNT = 0

class Quiet(Exception):
    def __str__(self):
        return ""

class Outer:
    class Inner(Exception):
        pass

def deep(n):
    if n == 0:
        raise KeyError("deep")
    deep(n - 1)

def chained():
    try:
        deep(2)
    except KeyError as error:
        raise RuntimeError("outer: \\u00fc") from error

def context_of(context):
    return {name: repr(value) for name, value in vars(context).items() if not name.startswith("_")}

def count():
    global COUNT
    COUNT += 1
    return COUNT

def raising(error):
    raise error

def client(context):
    if context.client_context is None:
        return None
    c = context.client_context
    return [c.custom, c.env, c.client and [c.client.app_title, c.client.installation_id], repr(c), context.w3c()]

def logged(context):
    log.info("not shown")
    log.warning("shown %s \\u00e9", 1)
    log.error("two\\nlines")
    context.log("by context\\n")
    print("out", file=sys.stdout)
    try:
        1 / 0
    except ZeroDivisionError:
        log.exception("with a trace")

async def coroutine():
    return 1

CASES = {
    "event": lambda e, c: e,
    "none": lambda e, c: None,
    "text": lambda e, c: "\\u00fc \\u2028",
    "bytes": lambda e, c: b"\\x00\\xff",
    "decimal": lambda e, c: {"d": decimal.Decimal("1.10"), "n": float("nan")},
    "named": lambda e, c: collections.namedtuple("P", "x y")(1, 2),
    "set": lambda e, c: {"a": {1}},
    "coroutine_type": lambda e, c: [coroutine],
    "context": lambda e, c: [repr(c), type(c).__name__, context_of(c), repr(c.identity)],
    "client": lambda e, c: client(c),
    "remaining": lambda e, c: 2000 < c.get_remaining_time_in_millis() <= 3000,
    "trace": lambda e, c: os.environ.get("_X_AMZN_TRACE_ID"),
    "count": lambda e, c: count(),
    "deep": lambda e, c: deep(3),
    "chained": lambda e, c: chained(),
    "quiet": lambda e, c: raising(Quiet()),
    "inner": lambda e, c: raising(Outer.Inner("x", 1)),
    "recursion": lambda e, c: [sys.setrecursionlimit(200), deep(100_000)],
    "group": lambda e, c: raising(OSError(2, "No such file", "/x")),
    "assert": lambda e, c: raising(AssertionError()),
    "stop": lambda e, c: raising(StopIteration(3)),
    "unicode": lambda e, c: raising(ValueError("\\u00fc\\n\\ttwo lines \\U0001f600")),
    "logged": lambda e, c: logged(c),
    "main": lambda e, c: [__name__, os.getcwd() == os.environ["LAMBDA_TASK_ROOT"], sys.path[0] == os.getcwd()],
    "argument": lambda e: 1,
}

def handler(event, context):
    return CASES[event["case"]](event, context)
'''
CASES = [name for name in re.findall(r'^    "(\w+)": lambda', APP, re.MULTILINE) if name != "recursion"]
CONTEXTS = [
    b'{"custom": {"subject": "a/b"}, "env": {"x": 1}, "client": {"app_title": "t", "other": 1}}', b"{}", b"null", b"[]",
    b'{"custom": null, "w3c": {"traceparent": "00-1", "x": "y", "baggage": 3}}', b'{"client": {}}', b'{"w3c": 1}', b"{",
    b"7", b'{"client": "text"}',
]  # fmt: skip
TIMESTAMP = re.compile(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{3})?Z")


def without_times(text: bytes) -> bytes:
    return TIMESTAMP.sub(b"TIME", text)


async def through_both(
    code: Path, events: list[tuple[bytes, bytes]], handler: str = "app.handler", **more: str
) -> tuple[list[tuple[str, bytes]], list[tuple[str, bytes]], bytes, bytes]:
    """The answers of awslambdaric and of ours, and what each wrote to the log."""
    variables = environment(code, handler, **more)
    ids = [f"00000000-0000-4000-8000-{place + 1:012}" for place in range(len(events))]

    def reference() -> tuple[list[tuple[str, bytes]], bytes]:
        with reference_runtime(code, variables) as runtime:
            answers = [runtime.call(name, *event) for name, event in zip(ids, events, strict=True)]
        return answers, runtime.stdout

    expected, log = await asyncio.to_thread(reference)
    async with worker(code, handler, **more) as running:
        await running.notes.until("ready")
        for payload, client_context in events:
            running.send(payload, client_context=client_context, trace_id="Root=1-5759e988-bd862e3fe1be46a994272793")
        answers = [(str(kind), payload) for kind, _, payload in await running.notes.until("done|error", len(events))]
        return expected, answers, log, running.notes.output["stdout"]  # type: ignore[return-value]


def events_of(*cases: str) -> list[tuple[bytes, bytes]]:
    return [(json.dumps({"case": case}).encode(), b"") for case in cases]


@pytest.mark.parametrize("runtime", ["AWS_Lambda_python3.11", "AWS_Lambda_python3.13"])
async def test_every_answer_and_every_line_of_the_log_is_that_of_aws(runtime: str, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(APP)
    events = events_of(*CASES) + [(b'{"case": "client"}', said) for said in CONTEXTS] + events_of("count", "missing")
    expected, answers, log, output = await through_both(tmp_path, events, AWS_EXECUTION_ENV=runtime)
    for (payload, context), theirs, ours in zip(events, expected, answers, strict=True):
        if b"AttributeError" in theirs[1] and context:  # raised in the runtime itself, whose lines are its own
            theirs, ours = [(kind, json.loads(answer) | {"stackTrace": []}) for kind, answer in (theirs, ours)]
        assert ours == theirs, (payload, context)
    own = re.compile(rb"\r\xc2\xa0\xc2\xa0File \"[^\"]*/awslambdaric/[^\n]*")
    assert without_times(output) == own.sub(b"", without_times(log))


async def test_events_that_are_no_json_and_results_that_cannot_be_are_errors_of_the_runtime(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text("async def handler(event, context): return 1\n")
    events = [(payload, b"") for payload in (b"{}", b"", b"nope", b"NaN", b"\xff")]
    expected, answers, _, _ = await through_both(tmp_path, events)
    for theirs, ours in zip(expected, answers, strict=True):
        assert ours[0] == theirs[0] == "error"
        assert {**json.loads(ours[1]), "errorMessage": ""} == {**json.loads(theirs[1]), "errorMessage": ""}
    assert answers[0] == expected[0]
    assert json.loads(answers[0][1])["errorType"] == "Runtime.MarshalError"


async def test_a_recursion_that_never_ends_is_an_error_of_the_handler(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(APP)
    expected, answers, _, _ = await through_both(tmp_path, events_of("recursion", "event"))
    theirs, ours = json.loads(expected[0][1]), json.loads(answers[0][1])
    assert ours["errorType"] == theirs["errorType"] == "RecursionError"
    assert ours["stackTrace"][:3] == theirs["stackTrace"][:3]
    assert answers[1] == expected[1]


BROKEN = {
    "app.handler": "import nowhere_to_be_found",
    "app.absent": "x = 1",
    "app": "x = 1",
    "": "x = 1",
    "missing.handler": "x = 1",
    "package/missing.handler": "x = 1",
    "sys.exit": "x = 1",
    "app.py.handler": "x = 1",
    ".handler": "x = 1",
    "app.": "x = 1",
    "app.syntax": "x = 1\ndef (:\n    pass\n",
    "app.raised": "def f():\n    raise ValueError('in init')\nf()\n",
    "app.attribute": "import os\nos.nothing\n",
    "app.assertion": "assert False\n",
    "app.from_import": "from json import nothing\n",
    "app.tabs": "if True:\n\tx = 1\n        y = 2\n",
}


@pytest.mark.parametrize("handler", BROKEN)
async def test_a_handler_that_cannot_be_loaded_is_the_error_of_aws(handler: str, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(BROKEN[handler])

    def reference() -> tuple[tuple[str, bytes], bytes]:
        with reference_runtime(tmp_path, environment(tmp_path, handler)) as runtime:
            answer = runtime.answers.get(timeout=20)
            runtime.answers.put(answer)
        return answer, runtime.stdout

    (kind, expected), log = await asyncio.to_thread(reference)
    async with worker(tmp_path, handler) as running:
        await running.notes.until("closed")
        assert running.process.wait(timeout=20) == 1
        told = [news for news in running.notes.told if news[0] not in {"said", "closed"}]
        ((ours, document),) = told
        assert (ours, document) == (kind, expected)
        lines = re.sub(rb"^\[WARNING\]\t[^\n]*LAMBDA_WARNING[^\n]*\n\n?", b"", log)
        assert without_times(running.notes.output["stdout"]) == without_times(lines)


@pytest.mark.parametrize("level", ["INFO", "TRACE", "ERROR"])
async def test_json_logs_have_the_members_that_aws_gives_them(level: str, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(
        "import logging\nlog = logging.getLogger('a.b')\n"
        "def handler(event, context):\n"
        "    log.debug('d'); log.info('i %s', 1, extra={'device': 7, 'odd': {1}}); log.warning({'a': 'é'})\n"
        "    try:\n        1 / 0\n    except ZeroDivisionError:\n        log.exception('x')\n"
        "    log.log(35, 'between')\n"
        "    raise ValueError('y')\n"
    )
    settings = {"AWS_LAMBDA_LOG_FORMAT": "JSON", "AWS_LAMBDA_LOG_LEVEL": level}
    expected, answers, log, output = await through_both(tmp_path, [(b"{}", b"")], **settings)
    assert answers == expected
    assert without_times(output) == without_times(log)
    assert output


async def test_a_result_beyond_the_limit_is_the_error_that_lambda_gives(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text("def handler(event, context): return 'x' * event\n")
    async with worker(tmp_path) as running:
        await running.notes.until("ready")
        kind, payload = await running.call(b"6291554")  # and two quotation marks
        assert (kind, len(payload)) == ("done", 6_291_556)
        kind, payload = await running.call(b"6291555")
        assert kind == "error"
        document: dict[str, Any] = json.loads(payload)
        assert document["errorType"] == "Function.ResponseSizeTooLarge"
        assert "(6291556 bytes)" in document["errorMessage"]


async def test_an_error_of_any_size_is_cut_and_reported(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(
        "class Bad(Exception):\n    def __str__(self): raise TypeError\n"
        "def handler(event, context):\n    raise ValueError('é\\0' * event) if event else Bad()\n"
    )
    async with worker(tmp_path) as running:
        await running.notes.until("ready")
        kind, payload = await running.call(b"5000000")
        assert (kind, json.loads(payload)["errorType"]) == ("error", "ValueError")
        assert len(payload) <= 256 << 10
        kind, payload = await running.call(b"0")
        assert (kind, json.loads(payload)["errorType"]) == ("error", "Bad")


async def test_binary_encoding_gives_bytes_and_takes_bytes(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text("def handler(event, context): return event[::-1] if event else str(type(event))\n")
    async with worker(tmp_path, TIDEGATE_ENCODING="binary") as running:
        await running.notes.until("ready")
        assert await running.call(b"\x00\xffnope") == ("done", b"epon\xff\x00")
        assert await running.call(b"") == ("done", b'"<class \'bytes\'>"')


async def test_code_may_use_the_names_of_our_modules(tmp_path: Path) -> None:
    for name in ("context", "wire", "logs", "loop", "output", "marshalling"):
        (tmp_path / f"{name}.py").write_text(f"NAME = 'mine: {name}'\n")
    (tmp_path / "handler.py").write_text(
        "import context, wire, logs, loop, output, marshalling\n"
        "def handler(e, c): return [m.NAME for m in (context, wire, logs, loop, output, marshalling)]\n"
    )
    async with worker(tmp_path, "handler.handler") as running:
        await running.notes.until("ready")
        _, payload = await running.call()
        assert all(name.startswith("mine: ") for name in json.loads(payload))
