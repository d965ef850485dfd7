"""What one version of a function did, in numbers: endings, cold starts, durations.

Events are counted in plain integers, and told to the daemon's counters once per turn of the loop.
"""

from typing import Any

from core.telemetry import Counters
from functions.histogram import Histogram
from functions.invocations import Ending, Result

FUNCTIONS_MAX = 100  # that are told apart in the counters, with 6 series each of the 2,000 that there may be
OTHERS = "other"
NOT_RUN = {Ending.THROTTLED, Ending.REFUSED}

class Numbers:
    """The numbers of one pool; `told` at the end of a turn in which something was counted."""

    __slots__ = ("_counters", "_label", "_untold", "cold_starts", "durations", "endings", "init")

    def __init__(self, function: str, counters: Counters, labels: set[str]) -> None:
        """`labels` are the functions that are told apart so far, of the whole daemon."""
        self.endings = dict.fromkeys(Ending, 0)
        self.durations = Histogram()
        self.init = Histogram()
        self.cold_starts = 0
        self._untold: dict[Ending, int] = {}
        self._counters = counters
        if len(labels) < FUNCTIONS_MAX:
            labels.add(function)
        self._label = function if function in labels else OTHERS

    def count(self, result: Result) -> None:
        """An attempt has ended."""
        ending = result.ending
        self.endings[ending] += 1
        self._untold[ending] = self._untold.get(ending, 0) + 1

    def started(self, init: float) -> None:
        """A worker became ready, after so many seconds."""
        self.cold_starts += 1
        self.init.add(init)
        self._counters.add("function_cold_starts_total", function=self._label)

    def tell(self) -> None:
        """Give the counters what was counted since the last time."""
        for ending, count in self._untold.items():
            self._counters.add("function_invocations_total", count, function=self._label, ending=ending.value)
        self._untold.clear()

    def status(self) -> dict[str, Any]:
        """For an operator; milliseconds."""
        run = sum(count for ending, count in self.endings.items() if ending not in NOT_RUN)
        return {
            "invocations": run,
            "errors": self.endings[Ending.ERROR],
            "timeouts": self.endings[Ending.TIMEOUT],
            "crashes": self.endings[Ending.CRASH],
            "throttles": self.endings[Ending.THROTTLED],
            "cold_starts": self.cold_starts,
            "duration_ms": self.durations.status(),
            "init_ms": self.init.status(),
        }
