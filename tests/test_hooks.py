"""The pre-provisioning hook: asked and heard, bounded in time and output; a fault of its own lets nobody in."""

import asyncio
from pathlib import Path

import orjson
import pytest

from devices.hooks import ANSWER_BYTES_MAX, Answer, HookFailed, ask
from tests.mqtt_peers import on_both_loops, until

QUESTION = {"clientId": "c", "parameters": {"SerialNumber": "A-1001"}}
EXAMPLE = Path(__file__).parent.parent / "examples" / "provisioning" / "known-serials"


def hook(directory: Path, *lines: str) -> Path:
    program = directory / "hook"
    program.write_text("\n".join(["#!/bin/sh", *lines]) + "\n")
    program.chmod(0o755)
    return program


@on_both_loops
async def test_the_hook_hears_the_question_and_its_answer_counts(tmp_path: Path) -> None:
    answer = '{"allowProvisioning": true, "parameterOverrides": {"Site": "hall"}}'
    program = hook(tmp_path, "cat > heard", f"echo '{answer}'")
    assert await ask(program, QUESTION) == Answer(True, {"Site": "hall"})
    assert orjson.loads((tmp_path / "heard").read_bytes()) == QUESTION


@on_both_loops
async def test_a_hook_need_not_read_the_question(tmp_path: Path) -> None:
    program = hook(tmp_path, "exec 0<&-", """echo '{"allowProvisioning": false}'""")
    assert await ask(program, {"long": "x" * 200_000}) == Answer(False, {})


@pytest.mark.parametrize(("serial", "allowed"), [("A-1001", True), ("A-1", False), ("A-1001\n", False), ("", False)])
@on_both_loops
async def test_the_example_lets_in_the_serial_numbers_of_its_list(serial: str, allowed: bool) -> None:
    assert (await ask(EXAMPLE, {"parameters": {"SerialNumber": serial}})).allow is allowed


@pytest.mark.parametrize(
    "parameters",
    [
        {"SerialNumber": "EVIL", 'x"SerialNumber': "A-1001"},
        {"SerialNumber": "EVIL", "x": '"SerialNumber":"A-1001"'},
        {"SerialNumber": "EVIL", "x": {"SerialNumber": "A-1001"}},
        {'"SerialNumber"': "A-1001"},
        {"serialnumber": "A-1001"},
        {},
    ],
)
@on_both_loops
async def test_the_example_hears_the_serial_number_that_the_template_will_use(parameters: dict[str, object]) -> None:
    question = {"clientId": '"SerialNumber":"A-1001"', "parameters": parameters, "x": {"SerialNumber": "A-1001"}}
    assert await ask(EXAMPLE, question) == Answer(False, {})


@pytest.mark.parametrize(
    "line",
    [
        "true",
        "echo yes",
        "echo '[]'",
        "echo '{}'",
        """echo '{"allowProvisioning": "true"}'""",
        """echo '{"allowProvisioning": true, "parameterOverrides": {"a": 1}}'""",
        """echo '{"allowProvisioning": true, "parameterOverrides": [1]}'""",
        """echo '{"allowProvisioning": true}'; exit 1""",
        """echo '{"allowProvisioning": true}'; kill -9 $$""",
    ],
)
@on_both_loops
async def test_anything_but_a_proper_answer_is_a_failure(tmp_path: Path, line: str) -> None:
    with pytest.raises(HookFailed):
        await ask(hook(tmp_path, line), QUESTION)


@on_both_loops
async def test_a_program_that_cannot_be_run_is_a_failure(tmp_path: Path) -> None:
    with pytest.raises(HookFailed, match="cannot be run"):
        await ask(tmp_path / "nothing", QUESTION)
    program = hook(tmp_path)
    program.chmod(0o644)
    with pytest.raises(HookFailed, match="cannot be run"):
        await ask(program, QUESTION)


@on_both_loops
async def test_output_without_end_is_cut_off(tmp_path: Path) -> None:
    with pytest.raises(HookFailed, match=f"{ANSWER_BYTES_MAX:,}"):
        await ask(hook(tmp_path, "exec yes"), QUESTION)


@on_both_loops
async def test_a_hook_that_hangs_is_ended_with_all_that_it_started(tmp_path: Path) -> None:
    program = hook(tmp_path, "sleep 600 & echo $! > started; wait")
    with pytest.raises(HookFailed, match="no answer in"):
        await ask(program, QUESTION, time_limit_s=1.0)
    started = int((tmp_path / "started").read_text())
    await until(lambda: has_ended(started))


def has_ended(pid: int) -> bool:
    """Whether a process is gone, or waits for a parent to hear of its end."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


@on_both_loops
async def test_a_hook_whose_asker_gives_up_is_ended(tmp_path: Path) -> None:
    program = hook(tmp_path, "echo $$ > aside; mv aside started; exec sleep 600")
    async with asyncio.TaskGroup() as group:
        task = group.create_task(ask(program, QUESTION))
        await until((tmp_path / "started").exists)
        task.cancel()
    started = int((tmp_path / "started").read_text())
    await until(lambda: has_ended(started))


def test_the_page_shows_the_example_as_it_is() -> None:
    page = (EXAMPLE.parent.parent.parent / "docs" / "provisioning.md").read_text()
    shown = page.split("```python\n", 1)[1].split("```", 1)[0]
    assert EXAMPLE.read_text().endswith(f"\n\n{shown}")
