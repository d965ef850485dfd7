"""Topics and filters for tests, and what MQTT 5 section 4.7 says about them, read as plainly as can be."""

from hypothesis import strategies as st

levels = st.sampled_from(["", "a", "b", "ab", "$a", "$"])
topics = st.lists(levels, min_size=1, max_size=5).map("/".join).filter(bool)


@st.composite
def _filters(draw: st.DrawFn) -> str:
    """A valid filter, which matches a topic of `topics` often enough."""
    parts = draw(st.lists(levels | st.just("+"), max_size=4))
    if draw(st.booleans()) or not "/".join(parts):
        parts.append("#")
    return "/".join(parts)


filters = _filters()


def matches(pattern: str, topic: str) -> bool:
    """Whether a filter matches a topic."""
    if topic.startswith("$") and pattern[0] in "+#":
        return False
    return _match(pattern.split("/"), topic.split("/"))


def _match(pattern: list[str], topic: list[str]) -> bool:
    match pattern:
        case []:
            return not topic
        case ["#"]:
            return True  # the parent level too
        case [first, *rest]:
            return bool(topic) and first in ("+", topic[0]) and _match(rest, topic[1:])
    raise AssertionError
