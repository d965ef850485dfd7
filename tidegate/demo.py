"""`tidegate demo`: the whole system on this machine, on real data, through outages.

Starts a cloud and an edge as real processes, replays two recordings of real sensors through them, cuts the link between
them twice and kills the edge once while messages are under way, and then counts what arrived. A Lambda function at the
edge looks at every reading of the machine, and makes alarms of some.
"""

import shutil
import string
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from core.cli import EXIT_FAILED, Json, err, errors_to_exit_codes, print_facts
from core.config import HostPort
from core.errors import TidegateError
from devices import recordings
from devices.simulate import Simulator, at_rate
from tidegate.evidence import examine, named
from tidegate.functions.deploying import deploy_template
from tidegate.functions.options import load_site
from tidegate.link import Link
from tidegate.processes import Daemon, free_port

EXAMPLES = Path(__file__).with_name("examples")
FUNCTION = EXAMPLES / "functions" / "watch" / "template.yaml"
HOT, COLD = 105.0, 20.0  # beyond these, the function makes an alarm of a reading; they stand in its template too
REPLAY_SECONDS = 20.0  # long enough for two outages and a crash with normal running in between
DEADLINE_SECONDS = 80.0  # from the first reading; whatever has not arrived by then counts as lost
# What happens at which part of the replay. The edge dies while the link is down, when it holds most.
SCRIPT = ((0.15, "cut"), (0.30, "restore"), (0.45, "cut"), (0.55, "kill"), (0.70, "restore"))

WORDS = {"cut": "the link is cut", "restore": "the link is back", "kill": "SIGKILL for the edge; it starts again"}


@dataclass(slots=True)
class Report:
    """What the demo prints; see `tidegate.evidence` for how what the cloud holds is counted.

    `alarms` are readings of which the cloud holds an alarm by the function at the edge, `alarms_wrong` those whose
    alarm is missing or should not be there.
    """

    published: int
    acked: int
    stored: int
    lost: int
    duplicates: int
    link_cuts: int
    edge_kills: int
    alerts: int
    alarms: int
    alarms_wrong: int
    raw_bytes_per_message: float
    uplink_bytes_per_message: float
    seconds: float


class Site:
    """A cloud, a link and an edge in one directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.cloud_dir = directory / "cloud"
        self._words = words = {
            "RULES": str(directory / "rules"),
            "EDGE_PORT": str(free_port()),
            "CLOUD_PORT": str(free_port()),
        }
        self.edge_port = int(words["EDGE_PORT"])
        self.link = Link(HostPort("127.0.0.1", int(words["CLOUD_PORT"])))
        words["LINK_PORT"] = str(self.link.port)
        for rules in (EXAMPLES / "rules", EXAMPLES / "demo" / "rules"):
            shutil.copytree(rules, directory / "rules", dirs_exist_ok=True)
        self._configure("edge")
        self._configure("cloud")
        self.cloud = Daemon("cloud", directory / "cloud.toml", self.cloud_dir)
        self.edge = Daemon("edge", directory / "edge.toml", directory / "edge")
        self.edge_kills = 0

    def _configure(self, side: str) -> None:
        template = string.Template((EXAMPLES / "demo" / f"{side}.toml").read_text())
        (self.directory / f"{side}.toml").write_text(template.substitute(self._words))

    def start(self) -> None:
        """Deploy the function and start both daemons; raises DaemonFailed."""
        deploy_template(FUNCTION, load_site(self.directory / "edge.toml"))
        self.cloud.start()
        self.edge.start()

    def do(self, event: str) -> None:
        """Let one of the events of SCRIPT happen."""
        match event:
            case "cut":
                self.link.cut()
            case "restore":
                self.link.restore()
            case "kill":
                self.edge.kill()
                self.edge_kills += 1
                self.edge.start()

    def waiting(self) -> int:
        """What is on its way: events for the function, messages in the edge's buffer and in the cloud's inbox."""
        events = int(self.edge.ask("functions-status")["queued_events"])  # first: what they lead to is counted after
        messages = int(self.edge.ask("status")["buffered_messages"])
        return events + messages + int(self.cloud.ask("status")["inbox_messages"])

    def leave_running(self) -> None:
        """Connect the edge to the cloud without the link, which ends with this process."""
        self._words["LINK_PORT"] = self._words["CLOUD_PORT"]
        self._configure("edge")
        self.edge.stop()
        self.edge.start()
        self.link.close()

    def stop(self) -> None:
        """Stop both daemons and the link."""
        self.edge.stop()
        self.cloud.stop()
        self.link.close()


def demo(
    directory: Annotated[
        Path | None, typer.Option("--dir", help="State directory, to be created; a temporary one by default.")
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Leave both running and say how to look around.")] = False,
    as_json: Json = False,
) -> None:
    """Run the whole system on this machine, on real data, through two link cuts and a SIGKILL of the edge."""
    with errors_to_exit_codes():
        directory = _make_directory(directory)
        err.print(f"State directory: {directory}", soft_wrap=True)
        site = Site(directory)
        try:
            report = _run(site)
        except BaseException:
            site.stop()
            raise
        if keep:
            site.leave_running()
        else:
            site.stop()
    print_facts(asdict(report), as_json=as_json)
    if keep:
        _say_how_to_look_around(site)
    if report.lost or report.duplicates or report.acked < report.published or report.published == 0:
        err.print("The cloud does not hold exactly what devices saw acknowledged.", style="red")
        raise typer.Exit(EXIT_FAILED)
    if report.alarms_wrong or report.alarms == 0:
        err.print("The cloud does not hold exactly the alarms that the function at the edge makes.", style="red")
        raise typer.Exit(EXIT_FAILED)
    err.print("Every acknowledged reading is in the cloud's table and stream, exactly once.", style="green")
    err.print("Every reading beyond the limits has an alarm by the function at the edge.", style="green")


def _make_directory(wanted: Path | None) -> Path:
    if wanted is None:
        return Path(tempfile.mkdtemp(prefix="tidegate-demo-"))
    if wanted.exists() and any(wanted.iterdir()):
        raise TidegateError(f"{wanted} is not empty; name a directory that is not there yet")
    wanted.mkdir(parents=True, exist_ok=True)
    return wanted.absolute()


def _run(site: Site) -> Report:
    started = time.monotonic()
    site.start()
    loaded = [recordings.load(name) for name in recordings.NAMES]
    simulators = [
        Simulator(r, "127.0.0.1", site.edge_port, due=at_rate(r, len(r.readings) / REPLAY_SECONDS)) for r in loaded
    ]
    with _stopping(simulators), _progress() as progress:
        _replay(site, simulators, progress)
    site.cloud.ask("flush")
    acknowledged = [
        (s.recording.machine, number) for s in simulators for number, seen in enumerate(s.acknowledged) if seen
    ]
    evidence = examine(site.cloud_dir, "readings", "alerts", acknowledged)
    alarms = named(site.cloud_dir, "diagnoses")
    readings = loaded[recordings.NAMES.index("machine")].readings
    alarming = {("machine", reading.number) for reading in readings if not COLD <= reading.value <= HOT}
    published = sum(s.published for s in simulators)
    raw = sum(s.payload_bytes + s.topic_bytes for s in simulators)
    return Report(
        published=published,
        acked=len(acknowledged),
        stored=evidence.stored,
        lost=evidence.lost,
        duplicates=evidence.duplicates,
        link_cuts=site.link.cuts,
        edge_kills=site.edge_kills,
        alerts=evidence.alerts,
        alarms=len(alarms),
        alarms_wrong=len((alarming & set(acknowledged)) ^ alarms),
        raw_bytes_per_message=round(raw / max(1, published), 1),
        uplink_bytes_per_message=round(site.link.bytes_up / max(1, evidence.stored), 1),
        seconds=round(time.monotonic() - started, 1),
    )


@contextmanager
def _stopping(simulators: list[Simulator]) -> Iterator[None]:
    for simulator in simulators:
        simulator.start()
    try:
        yield
    finally:
        for simulator in simulators:
            simulator.stop()
        for simulator in simulators:
            simulator.join(5)


def _progress() -> Progress:
    columns = TextColumn("{task.description:<28}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    return Progress(*columns, TextColumn("{task.fields[note]}"), console=err)


def _replay(site: Site, simulators: list[Simulator], progress: Progress) -> None:
    """Play SCRIPT while the simulators publish; return when all has arrived, or at the deadline."""
    bars = [
        progress.add_task(f"{s.recording.machine} acknowledged", total=len(s.recording.readings), note="")
        for s in simulators
    ]
    total = sum(len(s.recording.readings) for s in simulators)
    arrived = progress.add_task("in the cloud", total=total, note="link up")
    started = time.monotonic()
    script = list(SCRIPT)
    while time.monotonic() < started + DEADLINE_SECONDS:
        if script and time.monotonic() >= started + script[0][0] * REPLAY_SECONDS:
            _, event = script.pop(0)
            progress.console.print(f"{time.monotonic() - started:5.1f} s  {WORDS[event]}")
            site.do(event)
            progress.update(arrived, note="link up" if event == "restore" else "link down")
        _show(site, simulators, progress, bars, arrived)
        if not script and all(s.done for s in simulators) and site.waiting() == 0:
            return
        time.sleep(0.1)


def _show(
    site: Site, simulators: list[Simulator], progress: Progress, bars: list[TaskID], arrived: TaskID
) -> None:
    for bar, simulator in zip(bars, simulators, strict=True):
        progress.update(bar, completed=simulator.acknowledged_count)
    applied = site.cloud.ask("status")["counters"].get("messages_applied_total", 0)
    total = sum(len(simulator.recording.readings) for simulator in simulators)
    progress.update(arrived, completed=min(applied, total))  # the alarms that the edge made come on top


def _say_how_to_look_around(site: Site) -> None:
    edge, cloud = f"--config {site.directory}/edge.toml", f"--config {site.directory}/cloud.toml"
    err.print(
        f"""
Both daemons go on running. Look around:

  tidegate edge status {edge}
  tidegate cloud status {cloud}
  tidegate tables scan readings --limit 5 {cloud}
  tidegate streams ls telemetry {cloud}
  tidegate alerts tail alerts {cloud}
  tidegate functions status {edge}
  tidegate functions logs press-watch -n 5 {edge}
  tidegate tables scan diagnoses --limit 5 {cloud}
  tidegate devices simulate --broker 127.0.0.1:{site.edge_port} --rate 10
  mosquitto_sub -p {site.edge_port} -t 'plant/#' -v

and stop them:

  kill {site.edge.pid} {site.cloud.pid}""",
        soft_wrap=True,
    )
