"""SIGKILL at an exact moment, for programs that tests run in a process of their own."""

import os
import signal
import sqlite3
from collections.abc import Callable
from functools import partial
from typing import Any


class Countdown:
    """Kills this process at the `fatal`-th call; never, when that is 0."""

    def __init__(self, fatal: int) -> None:
        self._left = fatal

    def __call__(self) -> None:
        self._left -= 1
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


def before_every_statement(call: Callable[[], None]) -> None:
    """Make every SQLite connection that is opened from now on call `call()` before each statement it runs."""

    class Traced(sqlite3.Connection):
        def __init__(self, *arguments: Any, **named: Any) -> None:
            super().__init__(*arguments, **named)
            self.set_trace_callback(lambda _: call())

    sqlite3.connect = partial(sqlite3.connect, factory=Traced)  # type: ignore[assignment]
