"""What AWS IoT's registry says of a thing, in the shapes of its API: DescribeThing and ListThingGroupsForThing.

Only what the registry here keeps: names and attributes. There are no groups, thing types or ARNs.
"""

from collections.abc import Mapping
from typing import Any

from devices.registry import Thing


def described(things: Mapping[str, Thing], api: str, name: str) -> dict[str, Any] | None:
    """The reply of an API to a question about a thing; None when there is no such thing, or no such API."""
    thing = things.get(name)
    if thing is None:
        return None
    match api:
        case "DescribeThing":
            return {"thingName": thing.name, "defaultClientId": thing.name, "attributes": dict(thing.attributes)}
        case "ListThingGroupsForThing":
            return {"thingGroups": []}
    return None
