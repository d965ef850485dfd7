"""The tree of retained messages finds what a plain reading of MQTT 5 section 4.7 finds, whatever was put or cleared."""

from hypothesis import given, settings
from hypothesis import strategies as st

from core.message import Message
from core.mqtt.retained import Retained
from tests.naming import filters, matches, topics


@given(st.lists(st.tuples(topics, st.booleans()), max_size=60), st.lists(filters, min_size=1, max_size=5))
@settings(max_examples=300)
def test_retained_messages_are_found_as_the_standard_says(puts: list[tuple[str, bool]], patterns: list[str]) -> None:
    retained, model = Retained(), dict[str, bytes]()
    for number, (topic, clear) in enumerate(puts):
        payload = b"" if clear else b"%d" % number
        assert retained.put(Message(topic, payload))
        if clear:
            model.pop(topic, None)
        else:
            model[topic] = payload
        assert len(retained) == len(model)
    for pattern in patterns:
        found = [(message.topic, message.payload) for message in retained.find(pattern, 0)]
        assert sorted(found) == sorted(item for item in model.items() if matches(pattern, item[0]))


@given(st.lists(topics, max_size=30))
def test_nothing_is_left_in_memory_of_what_was_cleared(names: list[str]) -> None:
    retained = Retained()
    for payload in (b"x", b""):
        for topic in names:
            retained.put(Message(topic, payload))
    assert retained._root.children == {}
    assert (retained._topics, retained._bytes) == ({}, 0)
