"""Whatever is subscribed and published, each client gets what a plain reading of MQTT 5 section 3.3.4 gives it."""

from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st

from core.message import Message
from core.mqtt.router import Router
from tests.mqtt_peers import Reader
from tests.naming import filters, matches, topics

CLIENTS = ("a", "b", "c")


@dataclass(frozen=True)
class Wanted:
    """One subscription, as SUBSCRIBE says it."""

    qos: int
    no_local: bool
    retain_as_published: bool
    identifier: int


Step = tuple[str, str, Wanted | None] | Message  # client, filter, and its options or None to unsubscribe
names = st.sampled_from(CLIENTS)
wanted = st.builds(Wanted, st.integers(0, 2), st.booleans(), st.booleans(), st.integers(0, 3))
messages = st.builds(Message, topics, st.just(b"x"), st.integers(0, 2), st.booleans(), st.sampled_from([*CLIENTS, ""]))
steps = st.lists(st.tuples(names, filters, st.none() | wanted) | messages, max_size=40)


@given(steps)
@settings(max_examples=300)
def test_each_client_gets_the_copies_that_the_standard_gives_it(plan: list[Step]) -> None:
    router, readers = Router(), {name: Reader(name, window=1_000) for name in CLIENTS}
    model: dict[str, dict[str, Wanted]] = {name: {} for name in CLIENTS}
    for step in plan:
        if isinstance(step, Message):
            assert router.route([step]) == []
            for name, reader in readers.items():
                heard = [(int(p.qos), p.retain, sorted(p.subscription_ids)) for p in reader.hear()]
                assert heard == expected(model[name], name, step), (name, step)
            continue
        name, pattern, options = step
        known = pattern in model[name]
        if options is None:
            assert router.unsubscribe(readers[name].session, pattern) == known
            model[name].pop(pattern, None)
        else:
            subscription = readers[name].wants(pattern, options.qos, no_local=options.no_local,
                                               retain_as_published=options.retain_as_published,
                                               identifier=options.identifier)  # fmt: skip
            assert router.subscribe(subscription) == (not known)
            model[name][pattern] = options
        assert router.subscriptions == sum(map(len, model.values()))


def expected(subscriptions: dict[str, Wanted], name: str, message: Message) -> list[tuple[int, bool, list[int]]]:
    """QoS, RETAIN and identifiers of the one copy that a client gets, or no copy."""
    chosen = [
        wanted
        for pattern, wanted in subscriptions.items()
        if matches(pattern, message.topic) and not (wanted.no_local and name == message.client_id)
    ]
    if not chosen:
        return []
    qos = min(message.qos, max(wanted.qos for wanted in chosen))
    retain = message.retain and any(wanted.retain_as_published for wanted in chosen)
    return [(qos, retain, sorted(wanted.identifier for wanted in chosen if wanted.identifier))]
