"""Places for workers: a limit, a line, and who is asked to make room."""

from dataclasses import dataclass, field

from functions.workers.budget import TURN_SECONDS, Budget


@dataclass(eq=False)
class Pool:
    """A pool as the budget sees it: it takes places while it wants them, and notes what it is asked."""

    budget: Budget
    wants: int = 0
    places: int = 0
    idle: list[float] = field(default_factory=list)
    pinned: bool = False
    asked: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.budget.join(self)

    @property
    def spare(self) -> int:
        return 0 if self.pinned else self.places

    @property
    def idle_since(self) -> float | None:
        return min(self.idle) if self.idle and not self.pinned else None

    def stop_idle(self) -> None:
        self.asked.append("stop idle")

    def let_one_go(self) -> None:
        self.asked.append("let one go")

    def has_place(self) -> None:
        self.ask()

    def ask(self, more: int = 0) -> None:
        self.wants += more
        while self.wants and self.budget.take(self):
            self.wants -= 1
            self.places += 1

    def end(self) -> None:
        """A worker has ended."""
        self.places -= 1
        if self.idle:
            self.idle.remove(min(self.idle))
        self.budget.give_back()


def test_there_are_never_more_places_than_the_limit() -> None:
    budget = Budget(3)
    pools = [Pool(budget) for _ in range(3)]
    for pool in pools:
        pool.ask(2)
    assert budget.taken == 3
    assert [pool.places for pool in pools] == [2, 1, 0]
    pools[0].end()
    assert budget.taken == 3


def test_who_came_first_has_the_next_place() -> None:
    budget = Budget(1)
    holder, first, second = Pool(budget), Pool(budget), Pool(budget)
    holder.ask(1)
    first.ask(1)
    second.ask(1)
    holder.end()
    assert (first.places, second.places) == (1, 0)
    first.end()
    assert second.places == 1


def test_a_place_is_not_taken_past_those_in_line() -> None:
    budget = Budget(2)
    holder, waiting, late = Pool(budget), Pool(budget), Pool(budget)
    holder.ask(2)
    waiting.ask(1)
    holder.places -= 1
    budget.taken -= 1  # free, and nobody was told yet
    late.ask(1)
    assert late.places == 0


def test_the_worker_that_idles_longest_is_asked_to_stop_once() -> None:
    budget = Budget(2)
    recent, longest, wanting = Pool(budget, idle=[20.0]), Pool(budget, idle=[10.0]), Pool(budget)
    recent.ask(1)
    longest.ask(1)
    wanting.ask(1)
    wanting.ask()
    assert (recent.asked, longest.asked) == ([], ["stop idle"])
    longest.end()
    assert wanting.places == 1


def test_the_richest_lets_one_go_for_a_pool_that_has_none() -> None:
    budget = Budget(4)
    rich, poor, wanting = Pool(budget), Pool(budget), Pool(budget)
    rich.ask(3)
    poor.ask(1)
    wanting.ask(1)
    assert (rich.asked, poor.asked) == (["let one go"], [])


def test_nobody_busy_is_asked_for_a_pool_that_has_a_worker() -> None:
    budget = Budget(3)
    rich, wanting = Pool(budget), Pool(budget)
    rich.ask(2)
    wanting.ask(2)
    assert rich.asked == []


def test_a_last_worker_and_pinned_ones_stay() -> None:
    budget = Budget(3)
    pinned, single, wanting = Pool(budget, pinned=True, idle=[1.0]), Pool(budget), Pool(budget)
    pinned.ask(2)
    single.ask(1)
    wanting.ask(1)
    assert (pinned.asked, single.asked) == ([], [])


def test_who_becomes_idle_later_is_asked_for_room_as_often_as_somebody_waits() -> None:
    budget = Budget(2)
    busy, wanting = Pool(budget), Pool(budget)
    other = Pool(budget)
    busy.ask(1)
    other.ask(1)
    assert not budget.asks_for_room(busy)
    wanting.ask(1)
    assert budget.asks_for_room(busy)
    assert not budget.asks_for_room(other)  # one is coming
    busy.end()
    assert wanting.places == 1
    assert not budget.asks_for_room(other)


def test_a_pool_in_line_does_not_make_room_for_itself() -> None:
    budget = Budget(1)
    pool = Pool(budget)
    pool.ask(2)
    assert not budget.asks_for_room(pool)


def test_who_needs_no_place_any_more_leaves_the_line() -> None:
    budget = Budget(1)
    holder, fickle, patient = Pool(budget), Pool(budget), Pool(budget)
    holder.ask(1)
    fickle.ask(1)
    patient.ask(1)
    fickle.wants = 0
    budget.withdraw(fickle)
    holder.end()
    assert patient.places == 1


def test_a_place_that_nobody_takes_goes_to_the_next_in_line() -> None:
    budget = Budget(1)
    holder, fickle, patient = Pool(budget), Pool(budget), Pool(budget)
    holder.ask(1)
    fickle.ask(1)
    patient.ask(1)
    fickle.wants = 0
    holder.end()
    assert patient.places == 1


def test_a_pool_that_ends_leaves_the_line() -> None:
    budget = Budget(1)
    holder, ending = Pool(budget), Pool(budget)
    holder.ask(1)
    ending.ask(1)
    budget.leave(ending)
    holder.end()
    assert (budget.taken, ending.places) == (0, 0)


def test_busy_pools_take_turns_when_there_are_more_of_them_than_places() -> None:
    now = [0.0]
    budget = Budget(2, lambda: now[0])
    first, second, third = pools = [Pool(budget) for _ in range(3)]
    for pool in pools:
        pool.ask(1)
    now[0] = TURN_SECONDS - 1
    third.ask()
    assert [pool.asked for pool in pools] == [[], [], []]
    now[0] = TURN_SECONDS
    third.ask()
    third.ask()
    assert [pool.asked for pool in pools] == [["let one go"], [], []]
    first.ask(1)
    first.end()
    assert (first.places, third.places) == (0, 1)
    now[0] = 2 * TURN_SECONDS
    first.ask()
    assert [len(pool.asked) for pool in pools] == [1, 1, 0]
    second.end()
    assert first.places == 1


def test_a_pool_without_a_worker_does_not_wait_behind_one_that_wants_more() -> None:
    now = [0.0]
    budget = Budget(2, lambda: now[0])
    busy, other, starved = Pool(budget), Pool(budget), Pool(budget)
    busy.ask(2)
    busy.end()
    other.ask(1)
    busy.ask(1)
    starved.ask(1)
    now[0] = TURN_SECONDS
    starved.ask()
    other.end()
    assert (busy.places, starved.places) == (1, 1)
