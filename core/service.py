"""The life of a daemon: start, readiness, reload, watchdog, and a stop that ends in time.

`run(serve)` owns the process: the uvloop event loop, the signals, the words spoken to systemd (sd_notify(3))
and the exit code. `serve(life)` is the daemon; it says when it is ready, waits for `life.stop_requested()`,
and returns.

Will not read configuration nor know what the daemon does. Daemons put their tasks under an
`asyncio.TaskGroup` inside `serve`: a task that fails takes the daemon down, loudly, and systemd starts it
again.

Invariants:
1. SIGTERM or SIGINT asks for a stop; `STOP_LIMIT_S` later, or at the second signal, the process ends whatever
   hangs.
2. SIGHUP before `ready` waits for it; a reload that fails is logged, and the daemon goes on with what it had.
3. The watchdog is fed by the event loop that does the work, and only while every watch says that it is
   healthy.
4. Exit codes: 0 stopped as asked, 1 failed, 78 configuration (the units do not restart on it).
"""

import asyncio
import faulthandler
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

import uvloop

from core.errors import ConfigurationError, TidegateError
from core.telemetry import configure_logging, get_logger

STOP_LIMIT_S = 10.0  # enough for a last commit on a slow SD card; the units allow 15
NOTIFY_LIMIT_S = 1.0  # systemd reads at once; a daemon must not hang on whoever holds the other end
SYSTEMD_VARIABLES = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")
CANCEL_AGAIN_S = 0.1  # what finishes its work when cancelled, as the writer of an object does, takes longer at most
EXIT_FAILED = 1
EXIT_CONFIGURATION = 78  # EX_CONFIG of sysexits.h

log = get_logger("core.service")


class Life:
    """What a daemon asks of its process and tells its service manager. For the event loop's thread only."""

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        environment = environment or {}
        self._notify_socket = environment.get("NOTIFY_SOCKET", "")
        self._watchdog_s = _watchdog_interval(environment)
        self._stop = asyncio.Event()
        self._reload = asyncio.Event()
        self._ready = asyncio.Event()
        self._status = ""
        self._reloaders: list[Callable[[], Awaitable[None]]] = []
        self._watches: dict[str, Callable[[], bool]] = {}

    @property
    def stopping(self) -> bool:
        """Whether a stop was requested."""
        return self._stop.is_set()

    def ready(self, status: str) -> None:
        """Tell systemd that the service is up: whatever was ordered after it may start."""
        self._status = status
        self._ready.set()
        self._notify(f"READY=1\nSTATUS={_one_line(status)}")

    def status(self, text: str) -> None:
        """Set the line that `systemctl status` shows."""
        self._status = text
        self._notify(f"STATUS={_one_line(text)}")

    def on_reload(self, callback: Callable[[], Awaitable[None]]) -> None:
        """Run `callback` at every SIGHUP, after those added before it; what it raises is only logged."""
        self._reloaders.append(callback)

    def watch(self, name: str, healthy: Callable[[], bool]) -> None:
        """Feed the watchdog only while `healthy()` is true; it is asked a few times a minute."""
        self._watches[name] = healthy

    async def stop_requested(self) -> None:
        """Return once SIGTERM, SIGINT or `request_stop` asked for a stop."""
        await self._stop.wait()

    def request_stop(self) -> None:
        """Ask the daemon to stop gracefully."""
        self._stop.set()
        self._notify("STOPPING=1")

    def request_reload(self) -> None:
        """Ask for a reload; several requests that meet become one."""
        self._reload.set()

    async def _reload_forever(self) -> None:
        await self._ready.wait()
        while True:
            await self._reload.wait()
            self._reload.clear()
            now_us = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
            self._notify(f"RELOADING=1\nMONOTONIC_USEC={now_us}")
            failures = [failure for reloader in self._reloaders if (failure := await _attempt(reloader))]
            status = "; ".join([self._status, *(f"reload failed: {failure}" for failure in failures)])
            self._notify(f"READY=1\nSTATUS={_one_line(status)}")
            if not failures:
                log.info("reloaded")

    async def _feed_watchdog(self) -> None:
        while self._watchdog_s:
            sick = [name for name, healthy in self._watches.items() if not _is_healthy(name, healthy)]
            if sick:
                log.error("not healthy, the watchdog will restart the daemon", watches=",".join(sick))
            else:
                self._notify("WATCHDOG=1")
            await asyncio.sleep(self._watchdog_s / 2)

    def _notify(self, message: str) -> None:
        if not self._notify_socket:
            return
        address = "\0" + self._notify_socket[1:] if self._notify_socket[0] == "@" else self._notify_socket
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
                channel.settimeout(NOTIFY_LIMIT_S)
                channel.sendto(message.encode(), address)
        except OSError as error:
            log.warning("the service manager does not listen", socket=self._notify_socket, error=error)


def run(serve: Callable[[Life], Awaitable[None]], *, stop_limit_s: float = STOP_LIMIT_S) -> int:
    """Run a daemon to its end and return its exit code; to be called once, on the main thread.

    What `serve` raises ends the daemon: a ConfigurationError with its message and code 78, another
    TidegateError with a log line and code 1, anything else with its traceback and code 1.
    """
    if not logging.getLogger().hasHandlers():  # else the caller chose a level
        configure_logging()
    faulthandler.enable()  # the watchdog kills with SIGABRT; the journal then shows where every thread hung
    # Taken out of the environment, so that no child process speaks in our name.
    environment = {name: os.environ.pop(name, "") for name in SYSTEMD_VARIABLES}

    async def main() -> None:
        life = Life(environment)
        _listen_to_signals(life, stop_limit_s)
        asyncio.get_running_loop().set_exception_handler(_log_lost_exception)
        async with asyncio.TaskGroup() as group:
            background = [
                group.create_task(life._reload_forever(), name="reload"),
                group.create_task(life._feed_watchdog(), name="watchdog"),
            ]
            await serve(life)
            for task in background:
                task.cancel()

    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(main())
    except Exception as error:  # noqa: BLE001 - the end of the process is where everything has to be reported
        return _report(error)
    return 0


def _listen_to_signals(life: Life, stop_limit_s: float) -> None:
    loop = asyncio.get_running_loop()

    def stop() -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, _end_impatiently)
        # A thread, because an event loop that hangs could not end itself. It lasts until the process ends.
        timer = threading.Timer(stop_limit_s, _end_late, [loop, stop_limit_s])
        timer.daemon = True
        timer.start()
        life.request_stop()

    loop.add_signal_handler(signal.SIGTERM, stop)
    loop.add_signal_handler(signal.SIGINT, stop)
    loop.add_signal_handler(signal.SIGHUP, life.request_reload)


def _report(error: Exception) -> int:
    """Log what ended the daemon and choose its exit code."""
    causes = _leaves(error)
    configuration = [cause for cause in causes if isinstance(cause, ConfigurationError)]
    if configuration:
        print(*configuration, sep="\n", file=sys.stderr, flush=True)
        return EXIT_CONFIGURATION
    if all(isinstance(cause, TidegateError) for cause in causes):
        for cause in causes:
            log.error("the daemon failed", error=cause)
    else:
        log.fault("the daemon failed", error)
    return EXIT_FAILED


def _leaves(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for inner in error.exceptions for leaf in _leaves(inner)]
    return [error]


async def _attempt(reloader: Callable[[], Awaitable[None]]) -> str:
    """Run one reload callback; the failure's first line, or nothing."""
    try:
        await reloader()
    except TidegateError as error:
        log.error("reload failed", error=error)
        return _one_line(str(error))
    except Exception as error:  # noqa: BLE001 - invariant 2
        log.fault("reload failed", error)
        return repr(error)
    return ""


def _is_healthy(name: str, healthy: Callable[[], bool]) -> bool:
    try:
        return healthy()
    except Exception as error:  # noqa: BLE001 - a watch that cannot tell is not healthy
        log.fault("a watch failed", error, watch=name)
        return False


def _watchdog_interval(environment: Mapping[str, str]) -> float:
    """Seconds between two signs of life (sd_watchdog_enabled(3)); 0 when nobody waits for them."""
    if environment.get("WATCHDOG_PID") not in {None, "", str(os.getpid())}:
        return 0.0
    microseconds = environment.get("WATCHDOG_USEC", "")
    return int(microseconds) / 1e6 if microseconds.isdecimal() else 0.0


def _one_line(text: str) -> str:
    return text.partition("\n")[0]


def _log_lost_exception(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """A callback or a protocol raised: at most one connection is lost, but it is a fault of ours."""
    error = context.get("exception") or RuntimeError(context["message"])
    log.fault("nobody waited for this error", error, context=context["message"])


def _end_impatiently() -> None:
    log.warning("asked twice to stop, ending at once")
    os._exit(EXIT_FAILED)


def _end_late(loop: asyncio.AbstractEventLoop, limit_s: float) -> None:
    tasks = ", ".join(sorted(task.get_name() for task in asyncio.all_tasks(loop)))
    threads = ", ".join(sorted(thread.name for thread in threading.enumerate() if not thread.daemon))
    log.error("still running after the stop limit", limit_s=limit_s, tasks=tasks, threads=threads)
    faulthandler.dump_traceback()
    os._exit(EXIT_FAILED)


async def end(tasks: Iterable["asyncio.Task[None]"]) -> None:
    """Cancel tasks until they have ended, and wait for that.

    Once is not enough: a TaskGroup that is cancelled while one of its children fails raises the failure only, and a
    task that copes with the failure goes on (CPython 3.11 and 3.12, issue 116720).
    """
    pending = set(tasks)
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=CANCEL_AGAIN_S)
