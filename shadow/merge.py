"""What happens to the values of a section: an update merged in, its metadata, and what desired has that reported lacks.

A section (`desired`, `reported`) is a JSON object. Objects merge member by member, everything else replaces; null takes
a member away. Beside each section stands its metadata: the same tree with `{"timestamp": seconds}` where the section
has a value, and a list of those where it has an array (AWS IoT Developer Guide, "Device Shadow service documents").
"""

from typing import Any

Tree = dict[str, Any]


def merge(old: Tree, change: Tree) -> Tree:
    """The section after an update; neither argument is changed. An empty object is a value, as it is in AWS IoT."""
    merged = dict(old)
    for key, value in change.items():
        if value is None:
            merged.pop(key, None)
        elif isinstance(value, dict):
            before = merged.get(key)
            merged[key] = merge(before if isinstance(before, dict) else {}, value)
            if value and not merged[key]:
                del merged[key]  # an update took its last member away
        else:
            merged[key] = value
    return merged


def stamp(value: Any, now: int) -> Any:
    """The metadata of a value that was set at `now`."""
    if isinstance(value, dict):
        return {key: stamp(member, now) for key, member in value.items()}
    if isinstance(value, list):
        return [stamp(element, now) for element in value]
    return {"timestamp": now}


def merge_stamps(old: Tree, section: Tree, change: Tree, now: int) -> Tree:
    """The metadata after an update, for the merged `section`: what `change` names is new, the rest as it was."""
    merged: Tree = {}
    for key, value in section.items():
        if key not in change:
            merged[key] = old.get(key, stamp(value, now))
        elif isinstance(value, dict) and isinstance(change[key], dict):
            before = old.get(key)
            merged[key] = merge_stamps(before if isinstance(before, dict) else {}, value, change[key], now)
        else:
            merged[key] = stamp(value, now)
    return merged


def delta(desired: Tree, reported: Tree) -> Tree:
    """The members of desired that reported has not, or has otherwise; of nested objects only what differs."""
    found: Tree = {}
    for key, wanted in desired.items():
        if key not in reported:
            found[key] = wanted
        elif isinstance(wanted, dict) and isinstance(reported[key], dict):
            below = delta(wanted, reported[key])
            if below:
                found[key] = below
        elif not equal(wanted, reported[key]):
            found[key] = wanted
    return found


def equal(one: Any, other: Any) -> bool:
    """Whether two JSON values are the same: 1 is 1.0, but not true."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(equal, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(equal(value, other[key]) for key, value in one.items())
    return bool(one == other)


def below(tree: Tree, shape: Tree) -> Tree:
    """The part of a metadata tree that belongs to the members of `shape`."""
    return {
        key: below(tree[key], value) if isinstance(value, dict) and isinstance(tree[key], dict) else tree[key]
        for key, value in shape.items()
        if key in tree
    }
