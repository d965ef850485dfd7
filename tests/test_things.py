"""What rules are told about things has the shapes of AWS IoT's API."""

from devices.registry import Thing
from devices.things import described

THINGS = {"press": Thing("press", {"hall": "1", "site/line": "a#2"}, ("strict",), "a hash", 0)}


def test_a_thing_is_described_by_name_and_attributes_and_nothing_secret() -> None:
    answer = described(THINGS, "DescribeThing", "press")
    assert answer == {
        "thingName": "press",
        "defaultClientId": "press",
        "attributes": {"hall": "1", "site/line": "a#2"},
    }
    assert described(THINGS, "ListThingGroupsForThing", "press") == {"thingGroups": []}


def test_what_is_not_there_has_no_description() -> None:
    assert described(THINGS, "DescribeThing", "lathe") is None
    assert described(THINGS, "ListThingGroupsForThing", "lathe") is None
    assert described(THINGS, "DeleteThing", "press") is None
