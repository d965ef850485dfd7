"""What the embedded targets hold can be read while the daemon runs and when it does not."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
import typer
from typer.testing import CliRunner

from cloud.targets.alerts import SCHEMA as ALERTS
from cloud.targets.alerts import Notification, Topics
from cloud.targets.config import StreamConfig, Subscription, TableConfig, TopicConfig
from cloud.targets.delivery import write_object
from cloud.targets.owed import Outcome, settle
from cloud.targets.streams import SCHEMA as STREAMS
from cloud.targets.streams import Object, Streams
from cloud.targets.tables import SCHEMA as TABLES
from cloud.targets.tables import Tables
from core.store import connect
from tidegate import targets

ROOT = Path(__file__).parent.parent
T0 = 1_735_689_599_000
UUIDS = ("ffffffff-0000-4000-8000-000000000001", "00000000-0000-4000-8000-000000000002")
CONFIG = """
[cloud]
data_dir = "data"
[[listeners]]
address = "127.0.0.1:0"
anonymous = true
[targets.tables.readings]
keys = ["machine", "at"]
[targets.streams.telemetry]
size = 1024
[targets.topics.alerts]
subscriptions = [{ log = true }]
"""

app = typer.Typer()
for name in ("tables", "streams", "alerts"):
    app.add_typer(getattr(targets, name), name=name)


@pytest.fixture(params=["while the daemon runs", "when it does not"])
def config(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    (tmp_path / "cloud.toml").write_text(CONFIG)
    (tmp_path / "data").mkdir()
    db = connect(tmp_path / "data" / "cloud.db", TABLES + STREAMS + ALERTS)
    tables = Tables({"readings": TableConfig(keys=("machine", "at"))})
    tables.put(db, "readings", [{"machine": "press", "at": at} for at in (2, 10, "10")])
    streams = Streams({"telemetry": StreamConfig(size=1_024)})
    streams.open(db)
    for number, uuid in enumerate(UUIDS):  # both in one second; by name alone the second would come first
        streams.append(db, "telemetry", [b"%d %s\n" % (number, b"x" * 1_024)], T0)
        decided = streams.decide(db, "telemetry", T0, uuid)
        assert isinstance(decided, Object)
        write_object(tmp_path / "data" / "cloud.db", tmp_path / "data" / "streams", decided)
        streams.settle(db, decided)
    streams.append(db, "telemetry", [b"pending\n"], T0)
    topics = Topics({"alerts": TopicConfig(subscriptions=(Subscription(log=True),))})
    topics.publish(db, "alerts", [Notification(str(number), b"hot %d" % number, T0) for number in range(3)])
    settle(db, "alerts", "log", [Outcome(1, 1), Outcome(2, 3, "HTTP status 404", final=True)], T0, 0.0)
    if request.param == "when it does not":
        db.close()
    yield tmp_path / "cloud.toml"
    db.close()


def run(config: Path, *arguments: str) -> Any:
    result = CliRunner().invoke(app, [*arguments, "--config", str(config), "--json"])
    assert result.exit_code == 0, result.output
    return orjson.loads(result.stdout)


def failure(config: Path, *arguments: str) -> str:
    result = subprocess.run(
        [
            sys.executable,
            "-c",
            "from tests.test_targets_command import app; app()",
            *arguments,
            "--config",
            str(config),
        ],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    return result.stderr


def test_tables_are_listed_counted_scanned_and_looked_up(config: Path) -> None:
    assert run(config, "tables", "list") == [{"table": "readings", "keys": ["machine", "at"]}]
    assert run(config, "tables", "count") == {"readings": 3}
    everything = [{"machine": "press", "at": at} for at in (2, 10, "10")]
    assert run(config, "tables", "scan", "readings") == everything
    assert run(config, "tables", "scan", "readings", "--limit", "1") == everything[:1]
    assert run(config, "tables", "get", "readings", "press") == everything
    assert run(config, "tables", "get", "readings", "press", "2") == everything[:1]
    assert sorted(map(str, run(config, "tables", "get", "readings", "press", "10"))) == sorted(map(str, everything[1:]))


def test_streams_are_listed_with_what_is_pending_and_delivered(config: Path) -> None:
    (stream,) = run(config, "streams", "list")
    assert (stream["pending_records"], stream["pending_bytes"], stream["oldest"]) == (1, 8, "2024-12-31T23:59:59Z")
    assert (stream["objects"], stream["records"], stream["bytes"]) == (2, 2, 2_054)


def test_objects_are_listed_and_printed_in_the_order_they_were_written(config: Path) -> None:
    found = [each["object"] for each in run(config, "streams", "ls", "telemetry")]
    prefix = "2024/12/31/23/telemetry-1-2024-12-31-23-59-59-"
    assert found == [f"{prefix}{uuid}.gz" for uuid in UUIDS]
    for name, lines in (("telemetry", [b"0", b"1"]), (found[1], [b"1"])):
        result = CliRunner().invoke(app, ["streams", "cat", name, "--config", str(config)])
        assert [line[:1] for line in result.stdout_bytes.splitlines()] == lines


def test_a_reader_that_stops_early_is_no_error(config: Path) -> None:
    (config.parent / "data" / "streams" / "big").write_bytes(b"line\n" * 1_000_000)
    command = f'"{sys.executable}" -c "from tests.test_targets_command import app; app()"'
    line = f'set -o pipefail; {command} streams cat big --config "{config}" | head -n 1'
    result = subprocess.run(["bash", "-c", line], capture_output=True, check=False, cwd=ROOT)
    assert (result.returncode, result.stdout, result.stderr) == (0, b"line\n", b"")


def test_topics_show_what_was_told_and_who_was_not_reached(config: Path) -> None:
    assert run(config, "alerts", "list") == [
        {"topic": "alerts", "subscription": "log", "waiting": 1, "delivered": 1, "failed": 1}
    ]
    assert [each["message"] for each in run(config, "alerts", "tail", "alerts", "--limit", "2")] == ["hot 1", "hot 2"]
    (failed,) = run(config, "alerts", "failed", "alerts")
    assert (failed["message_id"], failed["error"], failed["attempts"]) == ("1", "HTTP status 404", 3)


@pytest.mark.parametrize("config", ["when it does not"], indirect=True)
def test_a_name_that_is_not_there_gives_a_sentence_and_exit_code_1(config: Path) -> None:
    assert "no table 'typo'" in failure(config, "tables", "scan", "typo")
    assert "no item with the key press 11" in failure(config, "tables", "get", "readings", "press", "11")
    assert "each part between '/' must be a name" in failure(config, "streams", "cat", "../../cloud.toml")
    assert "no stream and no object 'typo'" in failure(config, "streams", "cat", "typo")
    assert "the daemon is not running" in failure(config, "streams", "flush")
    (config.parent / "data" / "cloud.db").unlink()
    assert "does not exist; has the daemon run" in failure(config, "alerts", "list")
