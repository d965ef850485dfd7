"""What is a Java pattern, and what is in it; what is none is refused with a reason and a place."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rules.sql.javaregex.nodes import Choice, Edge, Greed, Group, Look, One, Repeat, Sequence, longest, unrolled
from rules.sql.javaregex.reader import DEPTH_MAX, read
from rules.sql.javaregex.scanner import PatternFault
from rules.sql.javaregex.sets import chars, letters

A, B = One(letters("a")), One(letters("b"))

# As OpenJDK 17 refuses them, but for the last two, which are not known here.
REFUSED = [
    "{", "a{", "a{x}", "a{,3}", "a{3,2}", "a{2147483648}", "a**", "a*??", "*", "+a", "?", "a|*", "(*)", "(?i)*",
    "[", "[a", "[]", "[a-", "[z-a]", "[a-\\d]", "[a", "[&&]", "[\\b]", "[\\R]", "[\\1]", "[\\k]", "(?x)[#a]",
    "(", "(a", "(?:a", "(?<n>", "(?<=a", "a)", "(?z)a", "(?P<n>a)", "(?#x)a", "(?<1n>a)", "(?<n_>a)", "(?<n>a)(?<n>b)",
    "\\", "\\y", "\\E", "a\\Eb", "\\k", "\\k<x>", "\\k<n>(?<n>a)", "\\x4", "\\xg1", "\\x{110000}", "\\u41", "\\08",
    "\\0", "\\c", "\\N", "\\N{NO SUCH NAME}",
    "\\p{Foo}", "\\p{", "\\p", "\\p{^L}", "\\p{lower}", "\\p{islatin}", "\\p{Latin}", "\\p{foo=bar}",
    "(?<=(?:ab)+)c", "(?<=(a)\\1)b", "\\b{g}", "(?:" * (DEPTH_MAX + 1) + ")" * (DEPTH_MAX + 1),
]  # fmt: skip


@pytest.mark.parametrize("pattern", REFUSED)
def test_what_java_refuses_is_refused_with_its_place(pattern: str) -> None:
    with pytest.raises(PatternFault, match=r".+, at character \d+"):
        read(pattern)


@pytest.mark.parametrize(
    ("pattern", "root"),
    [
        ("", Sequence(())),
        ("a", A),
        ("ab", Sequence((A, B))),
        ("a|b|", Choice((A, B, Sequence(())))),
        ("(a)(?:b)", Sequence((Group(A, 1), B))),
        ("a*", Repeat(A, 0, None, Greed.GREEDY)),
        ("a+?", Repeat(A, 1, None, Greed.LAZY)),
        ("a?+", Repeat(A, 0, 1, Greed.POSSESSIVE)),
        ("a{2}", Repeat(A, 2, 2, Greed.GREEDY)),
        ("a{2,}", Repeat(A, 2, None, Greed.GREEDY)),
        ("a{2,3}?", Repeat(A, 2, 3, Greed.LAZY)),
        ("(?<!a)", Look(A, behind=True, negative=True)),
        ("^$", Sequence((Edge.START, Edge.LAST_LINE))),
        ("(?m)^$", Sequence((Edge.LINE_START, Edge.LINE_END))),
        ("(?md)^$", Sequence((Edge.LINE_START_UNIX, Edge.LINE_END_UNIX))),
        ("(?d)$\\Z", Sequence((Edge.LAST_LINE_UNIX, Edge.LAST_LINE_UNIX))),
        ("(?x) a #b\n", A),
        ("[a-c]", One(chars((97, 99)))),
        ("(?i)a", One(letters("aA"))),
        ("(?:(?i)a)b", Sequence((One(letters("aA")), B))),
        ("(?i:a)b", Sequence((One(letters("aA")), B))),
        ("((?i)a|b)", Group(Choice((One(letters("aA")), One(letters("bB")))), 1)),
        ("\\Q(\\E", One(letters("("))),
    ],
)
def test_a_pattern_is_read_to_a_tree_without_flags(pattern: str, root: object) -> None:
    assert read(pattern).root == root


def test_groups_are_numbered_in_the_order_of_their_parentheses() -> None:
    tree = read("(a(?<two>b))(?:c)(?<three>d)(?=(e))")
    assert tree.groups == 4
    assert tree.names == {"two": 2, "three": 3}


def test_a_place_counts_from_one() -> None:
    with pytest.raises(PatternFault, match=r"at character 4$"):
        read("ab*" + "*")
    with pytest.raises(PatternFault, match=r"at character 2$"):
        read("\\y")


@pytest.mark.parametrize(
    ("pattern", "length"),
    [("abc", 3), ("a|bcd", 3), ("(ab){2,3}", 6), ("a*", 1), ("(?:ab)*", None), ("(?=abc)", 0), ("^", 0), ("(?>ab)", 2)],
)
def test_the_greatest_length_of_a_match_is_known(pattern: str, length: int | None) -> None:
    assert longest(read(pattern).root) == length


@pytest.mark.parametrize(
    ("pattern", "nodes"),
    [("a", 1), ("ab", 3), ("a{9}", 10), ("(?:a{9}){9}", 91), ("a+", 3), ("a*", 2), ("(?:(?:a+)+)+", 15)],
)
def test_repetitions_are_counted_as_often_as_they_are_written_out(pattern: str, nodes: int) -> None:
    assert unrolled(read(pattern).root) == nodes


@given(st.text(alphabet="ab01\\[](){}?*+|^$.&-:<>=!,#xQEpPbdkuN \n"))
def test_any_text_is_a_tree_or_a_fault(pattern: str) -> None:
    try:
        tree = read(pattern)
    except PatternFault:
        return
    assert tree.groups <= pattern.count("(")
