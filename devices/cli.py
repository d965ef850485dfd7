"""`tidegate devices`: sensors that replay real recordings against any MQTT broker."""

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, BinaryIO, cast

import orjson
import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from core.cli import EXIT_FAILED, Json, err, errors_to_exit_codes, print_rows
from core.errors import TidegateError
from devices import recordings, simulate
from devices.recordings import Reading, Recording
from devices.simulate import Simulator, Version

app = typer.Typer(no_args_is_help=True, help="The devices of a site, and sensors that stand in for them.")

REFRESH_SECONDS = 0.1
FAREWELL_SECONDS = 5.0  # how long a disconnecting simulator is waited for


class Protocol(StrEnum):
    """MQTT versions as the command line names them."""

    V5 = "5"
    V311 = "311"


RecordingName = StrEnum("RecordingName", list(recordings.NAMES))  # type: ignore[misc]


@app.callback()
def _devices() -> None:
    """Keep `simulate` a command of its own while it is the only one."""


@app.command("simulate")
def simulate_command(
    broker: Annotated[str, typer.Option(help="HOST:PORT of the MQTT broker.")] = "127.0.0.1:1883",
    recording: Annotated[
        list[RecordingName] | None, typer.Option(help="What to replay; may be repeated. Without it, all.")
    ] = None,
    speed: Annotated[
        str, typer.Option(help="Times real time, or 'max': as fast as the broker acknowledges.")
    ] = "max",
    rate: Annotated[
        float | None, typer.Option(min=0.001, help="Readings per second and sensor, instead of --speed.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Replay only the first N readings of each.")] = None,
    line: Annotated[str, typer.Option(help="Second level of plant/{line}/{machine}/telemetry.")] = "press-hall",
    mqtt: Annotated[Protocol, typer.Option(help="MQTT version.")] = Protocol.V5,
    in_flight: Annotated[
        int, typer.Option(min=1, max=10_000, help="Unacknowledged publishes per sensor.")
    ] = simulate.IN_FLIGHT,
    ledger: Annotated[
        Path | None, typer.Option(help="Append one JSON line per acknowledged reading, as it is acknowledged.")
    ] = None,
    connect_timeout: Annotated[
        float, typer.Option(min=0.1, help="Seconds to wait for the broker's first answer.")
    ] = 30.0,
    as_json: Json = False,
) -> None:
    """Replay recordings of real sensors as MQTT clients, until the broker has acknowledged every reading.

    Exits with 1 when it is interrupted before that.
    """
    host, port = _address(broker)
    pace = _pace(speed, rate)
    with errors_to_exit_codes(), ExitStack() as files:
        out = files.enter_context(ledger.open("ab", buffering=0)) if ledger else None
        simulators = []
        for name in recording or recordings.NAMES:
            replayed = recordings.load(name)
            replayed = replayed.head(limit) if limit else replayed
            simulators.append(
                Simulator(
                    replayed,
                    host,
                    port,
                    line=line,
                    version=cast(Version, int(mqtt)),
                    in_flight=in_flight,
                    due=pace(replayed),
                    on_acknowledged=_write_to(out, name) if out else None,
                )
            )
        started = time.monotonic()
        _replay(simulators, broker, connect_timeout)
        seconds = time.monotonic() - started
    print_rows([_facts(simulator, seconds) for simulator in simulators], as_json=as_json)
    if not all(simulator.done for simulator in simulators):
        raise typer.Exit(EXIT_FAILED)


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65_536:
        raise typer.BadParameter(f"{text!r} is not HOST:PORT", param_hint="--broker")
    return host.strip("[]"), int(port)


def _pace(speed: str, rate: float | None) -> Callable[[Recording], Sequence[float] | None]:
    if rate is not None:
        return lambda recording: simulate.at_rate(recording, rate)
    if speed == "max":
        return lambda _: None
    try:
        factor = float(speed)
    except ValueError:
        factor = 0.0
    if not 0 < factor < float("inf"):
        raise typer.BadParameter(f"{speed!r} is neither a positive number nor 'max'", param_hint="--speed")
    return lambda recording: simulate.at_speed(recording, factor)


def _write_to(ledger: BinaryIO, recording: str) -> Callable[[Reading], None]:
    def write(reading: Reading) -> None:
        ledger.write(orjson.dumps({"recording": recording, "reading": reading.number}) + b"\n")

    return write


def _replay(simulators: list[Simulator], broker: str, connect_timeout: float) -> None:
    """Run all simulators to their end or to Ctrl-C, whichever comes first; both leave the connections closed."""
    deadline = time.monotonic() + connect_timeout
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    progress = Progress(*columns, console=err, disable=not err.is_terminal)
    bars = [progress.add_task(s.topic, total=len(s.recording.readings)) for s in simulators]
    for simulator in simulators:
        simulator.start()
    try:
        with progress:
            running = True
            while running:
                running = not all(simulator.join(REFRESH_SECONDS) for simulator in simulators)
                for simulator, bar in zip(simulators, bars, strict=True):
                    progress.update(bar, completed=simulator.acknowledged_count)
                _check_reached(simulators, broker, deadline)
    except KeyboardInterrupt:
        err.print("stopped")
    finally:
        for simulator in simulators:
            simulator.stop()
        for simulator in simulators:
            simulator.join(FAREWELL_SECONDS)


def _check_reached(simulators: list[Simulator], broker: str, deadline: float) -> None:
    silent = [simulator for simulator in simulators if not simulator.connections]
    if silent and time.monotonic() > deadline:
        reason = silent[0].last_error or "it did not answer"
        raise TidegateError(f"cannot connect to the broker at {broker}: {reason}")


def _facts(simulator: Simulator, seconds: float) -> dict[str, Any]:
    return {
        "recording": simulator.recording.name,
        "topic": simulator.topic,
        "readings": len(simulator.recording.readings),
        "published": simulator.published,
        "acknowledged": simulator.acknowledged_count,
        "refusals": simulator.refusals,
        "connections": simulator.connections,
        "payload_bytes": simulator.payload_bytes,
        "seconds": round(seconds, 3),
    }
