"""The corpus: AWS IoT SQL as documented, case by case, through the real command line.

Each file of `tests/corpus` is a theme; each of its lines is a case, a JSON object with
- `id`, unique in all files, and `why`: which row of the language the case holds;
- `request`: the input of `tidegate rules eval --jsonl`, apart from its `id`, which is that of the case;
- `answer`: the output apart from its `id`; `{"error": true}` stands for any error;
- `exact` (optional): an Int is written as an Int and a Decimal as a Decimal. Otherwise 10 and 10.0 are the same number;
- `tolerance` (optional): by how much doubles may differ, relative to them.

The order of an object's keys means nothing. One process answers all: a case that brings it down takes the rest with
it, and says so.
"""

import functools
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
FILES = sorted((ROOT / "tests" / "corpus").glob("*.jsonl"))

REQUEST = {"sql", "topic", "payload", "payload_b64", "sql_version", "context", "templates"}
CONTEXT = {
    *("clientid", "principal", "accountid", "traceid", "sourceip", "timestamp", "protocol", "rule_name"),
    *("mqtt5", "stubs"),
}
MQTT5 = {"content_type", "response_topic", "correlation_data_b64", "format_indicator", "user_properties"}
STUBS = {"shadows", "dynamodb", "lambda", "registry", "secrets"}


def read(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text("utf-8").splitlines()]


CASES = [(file, case) for file in FILES for case in read(file)]


@functools.cache
def answers() -> dict[str, Any]:
    """What the process answers to all cases, by id; how it ended is under the empty id."""
    lines = [json.dumps({"id": case["id"], **case["request"]}).encode() for _, case in CASES]
    command = [sys.executable, "-m", "tidegate.main", "rules", "eval", "--jsonl"]
    try:
        done = subprocess.run(command, input=b"\n".join(lines), capture_output=True, cwd=ROOT, check=False, timeout=120)
    except subprocess.TimeoutExpired as late:
        output, end = late.stdout or b"", "no end after 120 s"
    else:
        output, end = done.stdout, f"exit code {done.returncode}, {done.stderr.decode()[-2000:]}"
    whole = output[: output.rfind(b"\n") + 1].splitlines()
    return {answer["id"]: answer for answer in map(json.loads, whole)} | {"": end}


def agree(wanted: Any, found: Any, exact: bool = False, tolerance: float = 0.0) -> bool:
    """Whether two JSON values are the same; Booleans are never numbers."""
    if isinstance(wanted, dict) and isinstance(found, dict):
        return wanted.keys() == found.keys() and all(agree(wanted[k], found[k], exact, tolerance) for k in wanted)
    if isinstance(wanted, list) and isinstance(found, list):
        return len(wanted) == len(found) and all(
            agree(one, other, exact, tolerance) for one, other in zip(wanted, found, strict=True)
        )
    numbers = type(wanted) in (int, float) and type(found) in (int, float)
    if not numbers or exact:
        return type(wanted) is type(found) and bool(wanted == found)
    return bool(wanted == found) or (tolerance > 0 and math.isclose(wanted, found, rel_tol=tolerance))


@pytest.mark.parametrize("case", [case for _, case in CASES], ids=[case["id"] for _, case in CASES])
def test_the_language_is_as_documented(case: dict[str, Any]) -> None:
    found = answers().get(case["id"])
    assert found is not None, f"no answer: {answers()['']}"
    if case["answer"] == {"error": True}:
        agreed = found.keys() == {"id", "error"} and found["error"].keys() == {"message", "line", "column"}
    else:
        wanted = {"id": case["id"], **case["answer"]}
        agreed = agree(wanted, found, case.get("exact", False), case.get("tolerance", 0.0))
    words = json.dumps([case["why"], case["request"], "wanted:", case["answer"], "found:", found], ensure_ascii=False)
    assert agreed, words


def test_every_case_is_written_as_the_command_reads_it() -> None:
    for file, case in CASES:
        assert file.stem == case["id"][: len(file.stem)], case["id"]
        assert case.keys() <= {"id", "why", "request", "answer", "exact", "tolerance"}, case["id"]
        request, answer = case["request"], case["answer"]
        assert {"sql", "topic"} <= request.keys() <= REQUEST, case["id"]
        context = request.get("context", {})
        assert context.keys() <= CONTEXT, case["id"]
        assert context.get("mqtt5", {}).keys() <= MQTT5, case["id"]
        assert context.get("stubs", {}).keys() <= STUBS, case["id"]
        outcomes = [{"error"}, {"matched"}, {"matched", "payload"}, {"matched", "payload_b64"}]
        assert answer.keys() - {"templates"} in outcomes, case["id"]
        assert answer.get("templates", {}).keys() == (request.get("templates", {}).keys() if len(answer) > 1 else set())
    identities = [case["id"] for _, case in CASES]
    assert len(set(identities)) == len(identities) > 600


@pytest.mark.parametrize(
    ("wanted", "found", "how"),
    [
        (1, True, {}), (False, 0, {}), (None, False, {}), ("1", 1, {}), ([1], [1, 2], {}), ({"a": 1}, {}, {}),
        (10, 10.0, {"exact": True}), ([10.0], [10], {"exact": True}), (1.0, 1.1, {"tolerance": 0.01}),
    ],
)  # fmt: skip
def test_a_disagreement_is_seen(wanted: Any, found: Any, how: dict[str, Any]) -> None:
    assert not agree(wanted, found, **how)


def test_numbers_agree_as_json_numbers() -> None:
    assert agree({"a": [10, 2.5]}, {"a": [10.0, 2.5]})
    assert agree(0.3, 0.1 + 0.2, tolerance=1e-12)
    assert not agree(0.3, 0.1 + 0.2)
