"""How much a worker is given at once, and how many workers what waits is worth. Values in, values out."""

WINDOW_SECONDS = 0.02  # of work that a worker is given ahead: what it takes to keep it busy between two turns
WORTH_SECONDS = 0.1  # of work for each further worker: about what a start costs
MEMORY_EVENTS = 8  # events until what is new counts for most


class Pace:
    """How long the events of a function take, lately; unknown (None) before the first has ended."""

    __slots__ = ("seconds",)

    def __init__(self) -> None:
        self.seconds: float | None = None

    def learn(self, seconds: float, events: int = 1) -> None:
        """Events have ended that took so long each."""
        known = seconds if self.seconds is None else self.seconds
        self.seconds = known + (seconds - known) * min(1.0, events / MEMORY_EVENTS)

    def window(self) -> int:
        """How many events a worker may have: what it does in WINDOW_SECONDS, and one at least."""
        if self.seconds is None:
            return 1
        return max(1, int(WINDOW_SECONDS / max(self.seconds, 1e-6)))

    def worth(self, waiting: int, in_hand: float) -> int:
        """How many workers more `waiting` events are worth, while a worker has had one in hand for so many seconds."""
        if self.seconds is None:
            return waiting
        return min(waiting, int(waiting * max(self.seconds, in_hand) / WORTH_SECONDS))
