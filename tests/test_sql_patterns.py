"""Java's regular expressions: they find what java.util.regex finds, on either engine, and nothing makes them stall."""

import gc
import json
import re
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from rules.errors import EvaluationError
from rules.sql import patterns
from rules.sql.javaregex.engines import SLOW_CHARS_MAX, STEPS_MAX, Backtracking, Handover, Re2, re2_engine
from rules.sql.javaregex.reader import read
from rules.sql.patterns import ANSWERS, KEPT, PARTS_MAX, PATTERN_CHARS_MAX, SECONDS_MAX, TIMEOUTS_MAX, Pattern
from rules.sql.values import TEXT_CHARS_MAX

ROOT = Path(__file__).parent.parent

# pattern, text, every match of it, as OpenJDK 17 answers (but for `\b`, which is JDK 19's)
JAVA: list[tuple[str, str, list[str]]] = [
    ("", "ab", ["", "", ""]),
    ("a*", "baaac", ["", "aaa", "", ""]),
    ("a*?", "aa", ["", "", ""]),
    ("(hi)*", "hihihello", ["hihi", "", "", "", "", "", ""]),
    ("|a", "aa", ["", "", ""]),
    ("a|ab", "abab", ["a", "a"]),
    ("(a|ab)(c|bcd)(d*)", "abcd", ["abcd"]),
    ("a{2}", "aaaaa", ["aa", "aa"]),
    ("a{2,}", "aaaaa a", ["aaaaa"]),
    ("a{1,2}?", "aaa", ["a", "a", "a"]),
    ("a{0}", "a", ["", ""]),
    ("a{2}{3}", "aaa", ["aa"]),
    ("(?:ab){2}", "ababab", ["abab"]),
    ("[]a]", "a]b", ["a", "]"]),
    ("[^]a]", "a]b", ["b"]),
    ("[a-c-e]", "bd-e", ["b", "-", "e"]),
    ("[a-]", "a-b", ["a", "-"]),
    ("[&a]", "a&b", ["a", "&"]),
    ("[a^]", "a^b", ["a", "^"]),
    ("[a[bc]]", "abcd", ["a", "b", "c"]),
    ("[a[^b]]", "abc", ["a", "c"]),
    ("[^a[bc]]", "abcd", ["d"]),
    ("[a-z&&[^aeiou]]", "hello", ["h", "l", "l"]),
    ("[a-d&&bc]", "abcd", ["b", "c"]),
    ("[a-d&&[b]d]", "abcd", ["b", "d"]),
    ("[^a-c&&b]", "abcd", ["a", "c", "d"]),
    ("[a&&b]", "ab", []),
    ("[\\w&&[^\\d]]+", "ab12_", ["ab", "_"]),
    ("[\\p{L}&&[^\\p{Lu}]]+", "aBcÄö", ["a", "c", "ö"]),
    ("[[\\p{L}&&[^\\p{Lu}]][0-9]]+", "aB1", ["a", "1"]),
    ("[\\d-z]", "5-z", ["5", "-", "z"]),
    ("[\\Qa-z\\E]", "abz-", ["a", "z", "-"]),
    ("\\Qa*b\\E+", "a*bb", ["a*bb"]),
    ("\\Qa.b", "a.b", ["a.b"]),
    ("\\Q\\E", "a", ["", ""]),
    ("\\\\Q", "a\\Qb", ["\\Q"]),
    ("\\.\\-\\_\\ ", ".-_ ", [".-_ "]),
    ("\\x41\\x{42}\\u0043\\0104", "ABCD", ["ABCD"]),
    ("\\ud83d\\ude00", "a\U0001f600", ["\U0001f600"]),
    (".", "\U0001f600ä", ["\U0001f600", "ä"]),
    ("\\t\\n\\r\\f\\a\\e\\cA", "\t\n\r\f\x07\x1b\x01", ["\t\n\r\f\x07\x1b\x01"]),
    ("\\N{LATIN SMALL LETTER A}", "a", ["a"]),
    ("\\d+", "a12\u0663", ["12"]),
    ("\\D+", "a12\u0663", ["a", "\u0663"]),
    ("\\w+", "ab_1é", ["ab_1"]),
    ("\\s+", "a \t\n\x0b\f\r\xa0", [" \t\n\x0b\f\r"]),
    ("\\S+", "a\xa0 b", ["a\xa0", "b"]),
    ("\\h+", "a \t\xa0\u3000\n", [" \t\xa0\u3000"]),
    ("\\v+", "a\n\x0b\r\x85\u2028 ", ["\n\x0b\r\x85\u2028"]),
    ("\\V", "a\n", ["a"]),
    ("\\R", "a\r\nb\nc\u2028\r", ["\r\n", "\n", "\u2028", "\r"]),
    ("\\X", "e\u0301a", ["e\u0301", "a"]),
    (".+", "ab\ncd\re\x85f\u2028g\u2029h\x0bi", ["ab", "cd", "e", "f", "g", "h\x0bi"]),
    ("(?s).+", "ab\ncd", ["ab\ncd"]),
    ("(?d).+", "ab\ncd\re", ["ab", "cd\re"]),
    ("\\p{Alpha}+", "abÄ1", ["ab"]),
    ("\\p{Lower}\\p{Upper}", "aBäÖ", ["aB"]),
    ("\\p{Punct}+", "a!-_ü\u2026", ["!-_"]),
    ("\\p{ASCII}", "äa", ["a"]),
    ("\\p{XDigit}+", "fGA9", ["f", "A9"]),
    ("\\p{L}+", "aÄ\u0416 1", ["aÄ\u0416"]),
    ("\\pL+", "aÄ1", ["aÄ"]),
    ("\\PL+", "aÄ1-", ["1-"]),
    ("\\p{Lu}", "aÄB", ["Ä", "B"]),
    ("\\p{IsLu}", "aÄB", ["Ä", "B"]),
    ("\\p{gc=Lu}", "aÄB", ["Ä", "B"]),
    ("\\p{IsLatin}+", "aÄ\u0416", ["aÄ"]),
    ("\\p{IsLATIN}+", "aÄ\u0416", ["aÄ"]),
    ("\\p{script=Cyrillic}", "a\u0416", ["\u0416"]),
    ("\\p{sc=Latn}", "a\u0416", ["a"]),
    ("\\p{InCyrillic}", "a\u0416", ["\u0416"]),
    ("\\p{InBasic Latin}", "a\u0416", ["a"]),
    ("\\p{block=Cyrillic}", "a\u0416", ["\u0416"]),
    ("\\p{IsAlphabetic}+", "aÄ\u0345 1", ["aÄ\u0345"]),
    ("\\p{IsAlpha}+", "aÄ1", ["aÄ"]),
    ("\\p{IsWhite_Space}", "a\xa0", ["\xa0"]),
    ("\\p{javaLowerCase}+", "aäªB", ["aäª"]),
    ("\\p{javaWhitespace}+", "a \x1c\xa0", [" \x1c"]),
    ("\\p{L1}+", "aÿĀ", ["aÿ"]),
    ("\\p{LC}+", "aB\u01c5ª1", ["aB\u01c5"]),
    ("\\p{Cn}", "a\uffff", ["\uffff"]),
    ("\\P{C}", "a\uffff", ["a"]),
    ("(?i)straSSe", "STRASSE strasse", ["STRASSE", "strasse"]),
    ("(?i)ä", "äÄ", ["ä"]),
    ("(?iu)ä", "äÄ", ["ä", "Ä"]),
    ("(?i)k", "kK\u212a", ["k", "K"]),
    ("(?iu)k", "kK\u212a", ["k", "K", "\u212a"]),
    ("(?i)[a-f]", "aF\u212a", ["a", "F"]),
    ("(?i)[^a-f]", "aFg", ["g"]),
    ("(?i)\\p{Lower}", "aB", ["a", "B"]),
    ("(?i)\\p{Lu}", "aB1", ["a", "B"]),
    ("a(?i)b|c", "aB C", ["aB", "C"]),
    ("a(?i:b)c", "aBc aBC", ["aBc"]),
    ("(?i)a(?-i)b", "Ab AB", ["Ab"]),
    ("(?i-s:A.)", "ab", ["ab"]),
    ("(?U)\\w+", "aé\u0663_ -", ["aé\u0663_"]),
    ("(?U)\\d+", "1\u0663a", ["1\u0663"]),
    ("(?U)\\b\\w", "éa b", ["é", "b"]),
    ("(?x) a b # c\n [c d] \\ ", "abd ", ["abd "]),
    ("(?x)a {2}", "aa", ["aa"]),
    ("^a", "aba\na", ["a"]),
    ("(?m)^a", "aba\na\r\na\u2028a", ["a", "a", "a", "a"]),
    ("(?m)^", "a\nb\n", ["", ""]),
    ("(?m)^", "", []),
    ("(?m)$", "a\r\nb\n", ["", "", ""]),
    ("(?md)^.*$", "a\rb\nc", ["a\rb", "c"]),
    ("b$", "ab\n", ["b"]),
    ("b$", "ab\r\n", ["b"]),
    ("b$", "ab\n\n", []),
    ("(?d)b$", "ab\r", []),
    ("b\\Z", "ab\u2028", ["b"]),
    ("b\\z", "ab\n", []),
    ("$", "a\n", ["", ""]),
    ("$", "a\r\n", ["", ""]),
    ("(^a$|b$)", "a\n", ["a"]),
    ("a$\\n", "a\n", ["a\n"]),
    ("[^x]*$", "ab\r\n", ["ab\r\n", ""]),
    ("[^\\n]*$", "ab\r\n", ["ab", "", ""]),
    ("\\Aa|\\Gb", "abba", ["a", "b", "b"]),
    ("\\bfoo\\b", "foo foobar (foo)", ["foo", "foo"]),
    ("\\B.", "abc d", ["b", "c"]),
    ("\\B", "äb", [""]),
    ("(?<=a)b", "abcb", ["b"]),
    ("(?<!a)b", "abcb", ["b"]),
    ("(?<=a{1,3}|x)b", "aab xb cb", ["b", "b"]),
    ("(?<=a+)b", "aab cb", ["b"]),
    ("a(?=b)", "abac", ["a"]),
    ("a(?!b)", "abac", ["a"]),
    ("(?=(a+))a*b\\1", "baaabac", ["aba"]),
    ("(?>a|ab)c", "abc", []),
    ("a*+a", "aaa", []),
    ("(a+)b\\1", "aabaab", ["aabaa"]),
    ("(?i)(ab)\\1", "abAB", ["abAB"]),
    ("(?<n>a)\\k<n>", "aaa", ["aa"]),
    ("(a)\\11", "aa1", ["aa1"]),
    ("(a)\\2", "aa", []),
    ("\\1(a)", "aa", []),
    ("(a)|b\\1", "ab", ["a"]),
]

CATASTROPHES = [
    "(a+)+$",
    "(a|aa)+$",
    "(a*)*$",
    "(x+x+)+y|(a+a+)+b",
    "(?=(a+)+$)",
    "(a+)+\\1$",
    "(.*)(.*)(.*)(.*)(.*)(.*)x",
    "a{1,1000}b",
    "a[ab]{900}c",
    "(?:a?){1000}b",
    "(((a{1,1000}){1,1000}){1,1000})",
    "((((((((((a{9}){9}){9}){9}){9}){9}){9}){9}){9}){9})",
    "(?:" * 40 + "a" + "+b)+" * 40,
    "(?:a|b){2147483647}",
    "(?<!(?:a|aa){1,500})b",
]
TEXT = "a" * 50_000 + "!"


@pytest.fixture(autouse=True)
def _nothing_kept() -> None:
    patterns.forget()


def engines(pattern: str) -> list[Any]:
    tree = read(pattern)
    return [engine for engine in (re2_engine(tree), Backtracking(tree)) if engine is not None]


def found(engine: Any, text: str) -> list[str]:
    """Every match; the marks around them stand in no text here."""
    return re.findall("\ue000(.*?)\ue001", engine.replaced(text, ("\ue000", 0, "\ue001"), SECONDS_MAX), re.DOTALL)


def compiled(pattern: str) -> Pattern:
    ready = patterns.compile(pattern)
    assert ready is not None, patterns.fault(pattern)
    return ready


def replaced(text: str, pattern: str, replacement: str) -> str | None:
    parts = compiled(pattern).parts(replacement)
    return None if parts is None else compiled(pattern).replaced_in(text, parts)


# ── what is found ───────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("pattern", "text", "matches"), JAVA)
def test_what_java_finds_is_found(pattern: str, text: str, matches: list[str]) -> None:
    ready = compiled(pattern)
    assert ready.found_in(text) is bool(matches)
    assert ready.first_in(text) == (matches[0] if matches else None)
    parts = ready.parts("<$0>")
    assert parts is not None
    rebuilt = ready.replaced_in(text, parts)
    assert rebuilt.count("<") == len(matches)
    assert all(f"<{match}>" in rebuilt for match in matches)


@pytest.mark.parametrize(("pattern", "text", "matches"), JAVA)
def test_the_engine_that_can_say_everything_finds_the_same(pattern: str, text: str, matches: list[str]) -> None:
    assert found(Backtracking(read(pattern)), text) == matches


def test_most_patterns_run_in_linear_time() -> None:
    slow = {pattern for pattern, _, _ in JAVA if patterns.slow(pattern)}
    assert not slow & {"", "a|ab", "[a-z&&[^aeiou]]", "(?i)straSSe", "b$", "(^a$|b$)", "\\R", "\\p{IsLatin}+"}
    assert slow >= {"a(?=b)", "(?<!a)b", "(a+)b\\1", "(?>a|ab)c", "a*+a", "(?m)^a", "a$\\n", "\\X", "\\p{InCyrillic}"}
    assert len(slow) < len(JAVA) / 4


PIECES = ["a", "b", "A", "ä", "1", " ", ".", "\\d", "\\w", "\\s", "[ab]", "[^a]", "[a-c&&[^b]]", "\\p{L}", "\\R",
          "(?i)b", "(", ")", "|", "*", "+", "?", "{2}", "{1,3}?", "^", "$", "\\b", "\\B", "\\Z"]  # fmt: skip


@given(
    pattern=st.lists(st.sampled_from(PIECES), min_size=1, max_size=10).map("".join),
    text=st.text(alphabet="abAäb1 \n\r\u2028", max_size=12),
)
def test_both_engines_find_the_same(pattern: str, text: str) -> None:
    assume(patterns.compile(pattern) and not patterns.slow(pattern))
    linear, backtracking = engines(pattern)
    try:
        matches = found(linear, text)
    except Handover:  # the end of a line inside of CRLF, or \\B inside of a character
        return
    assert matches == found(backtracking, text)


# ── what is refused ─────────────────────────────────────────────────────────────────────────────────────────


def test_what_is_no_pattern_has_a_reason() -> None:
    assert patterns.compile("a(b") is None
    assert patterns.fault("a(b") == "a group without its ')', at character 4"
    assert patterns.fault("ab") is None
    assert not patterns.slow("a(b")


def test_what_neither_engine_runs_has_a_reason() -> None:
    assert patterns.fault("\\p{IsKlingon}") is not None
    assert patterns.fault("(?=(?:ab){100000})") == "the pattern is too large"


def test_a_pattern_has_a_greatest_length() -> None:
    assert patterns.fault("a" * PATTERN_CHARS_MAX) is None
    assert patterns.fault("a" * (PATTERN_CHARS_MAX + 1)) == "it has more than 2,048 characters"


# ── what is replaced ────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("text", "pattern", "replacement", "result"),
    [
        ("abc", "b", "x", "axc"),
        ("abab", "b", "", "aa"),
        ("abc", "(b)(c)", "$2$1$0", "acbbc"),
        ("abc", "(?<x>b)", "[${x}]", "a[b]c"),
        ("abc", "b", "\\$1\\\\", "a$1\\c"),
        ("abc", "b", "\\x", "axc"),
        ("abc", "(b)", "$12", "ab2c"),
        ("abcdefghijk", "(a)(b)(c)(d)(e)(f)(g)(h)(i)(j)(k)", "$11$0", "kabcdefghijk"),
        ("ab", "(a)|(b)", "<$1$2>", "<a><b>"),
        ("ab", "(a)|(b)", "<$1>", "<a><>"),
        ("äöü", "ö", "\U0001f600", "ä\U0001f600ü"),
        ("äö", "", "-", "-ä-ö-"),
        ("baaac", "a*", "-", "-b--c-"),
        ("a\nb", "$", "!", "a\nb!"),
        ("a\n", "a$", "b", "b\n"),
        ("a\r\n", "(a)$", "[$1]", "[a]\r\n"),
        ("a\n", "(a$)", "[$1]", "[a]\n"),
        ("aab", "(?=a)", "-", "-a-ab"),
        ("x", "y", "$0", "x"),
        ("abc", "b", "$1", None),
        ("abc", "b", "$", None),
        ("abc", "b", "a\\", None),
        ("abc", "b", "${x}", None),
        ("abc", "(?<x>b)", "${x", None),
        ("abc", "(?<x>b)", "${1}", None),
        ("xyz", "b", "$1", None),
    ],
)
def test_replacements_are_those_of_java(text: str, pattern: str, replacement: str, result: str | None) -> None:
    assert replaced(text, pattern, replacement) == result


def test_a_result_has_a_greatest_length() -> None:
    half = "a" * (TEXT_CHARS_MAX // 2048)
    assert len(replaced(half, "a", "b" * 2048) or "") == TEXT_CHARS_MAX
    with pytest.raises(EvaluationError, match="grew beyond"):
        replaced(half + "a", "a", "b" * 2048)
    with pytest.raises(EvaluationError, match="grew beyond"):
        replaced(half + "a", "a(?!b)", "b" * 2048)


# ── what cannot stall ───────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("pattern", CATASTROPHES)
def test_a_catastrophe_is_answered_or_given_up(pattern: str) -> None:
    """Whether in time, the suite's own patience says; each of these takes from hours to for ever when left alone."""
    ready = patterns.compile(pattern)
    if ready is None:
        assert patterns.fault(pattern) == "the pattern is too large"
        return
    for text in (TEXT, "ab" * 40_000, ""):
        for use in (ready.found_in, lambda text: ready.replaced_in(text, ("x",))):
            with suppress(EvaluationError):
                use(text)


def test_in_linear_time_there_is_an_answer() -> None:
    assert not compiled("(a+)+$").found_in(TEXT)
    assert compiled("(a|aa)+$").first_in(TEXT[:-1]) == TEXT[:-1]
    assert compiled("(.*)(.*)(.*)(.*)x").first_in(TEXT) is None


def test_what_is_long_for_linear_time_too_goes_to_the_engine_with_a_time_out() -> None:
    ready = compiled("b[ab]{100}c")
    long = "a" * (STEPS_MAX // 100)
    with pytest.raises(EvaluationError, match="too long"):
        ready.found_in(long)
    assert not ready.found_in(long[:SLOW_CHARS_MAX])


@pytest.mark.parametrize(
    ("text", "pattern", "replacement", "result"),
    [
        ('"key", ' * 5_000, '"[^"]*"', "x", "x, " * 5_000),
        (" " * 40_000, " ", "_", "_" * 40_000),
        ("ä " * 20_000, "(\\w*)ä", "$1a", "a " * 20_000),
        ("äb" * 2_000, "b*", "-", "-ä-" * 2_000 + "-"),
    ],
)
def test_many_matches_in_a_long_text_are_all_replaced(text: str, pattern: str, replacement: str, result: str) -> None:
    assert replaced(text, pattern, replacement) == result


def test_matches_that_look_to_the_end_of_a_long_text_each_time_are_given_up() -> None:
    with pytest.raises(EvaluationError, match="took longer than 100 ms"):
        replaced("a" * SLOW_CHARS_MAX, "a[^b]*b|a", "x")
    assert replaced("aaab", "a[^b]*b|a", "x") == "x"


def test_a_replacement_has_a_greatest_number_of_parts() -> None:
    assert replaced("ab", "(x?)a", "$1" * PARTS_MAX) == "b"
    with pytest.raises(EvaluationError, match="more than 1,000 parts"):
        replaced("ab", "(x?)a", "$1" * (PARTS_MAX + 1))


# ── whose patience ends ─────────────────────────────────────────────────────────────────────────────────────


def times_out(pattern: str, milliseconds: int) -> None:
    with pytest.raises(EvaluationError, match=f"took longer than {milliseconds} ms"):
        compiled(pattern).found_in(TEXT)


def test_a_pattern_that_keeps_timing_out_is_stopped_sooner_and_goes_on_answering() -> None:
    for _ in range(TIMEOUTS_MAX):
        times_out("(?=(a+)+$)", 50)
    times_out("(?=(a+)+$)", 2)
    assert compiled("(?=(a+)+$)").found_in("aa")


def test_answers_in_time_earn_patience_back() -> None:
    for _ in range(TIMEOUTS_MAX):
        times_out("(?=(a+)+$)", 50)
    for _ in range(ANSWERS):
        assert compiled("(?=(a+)+$)").found_in("aa")
    times_out("(?=(a+)+$)", 50)
    times_out("(?=(a+)+$)", 2)


def test_loading_rules_makes_patience_new() -> None:
    for _ in range(TIMEOUTS_MAX):
        times_out("(?=(a+)+$)", 50)
    patterns.forget()
    times_out("(?=(a+)+$)", 50)


def exhaust(common: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many devices with bad patterns do, in less time."""
    monkeypatch.setattr(common, "left", 3 * ANSWERS)
    for number in range(3):
        times_out(f"(?=(a+)+$|{number})", 50)
    times_out("(?=(a+)+$|9)", 2)


def test_patterns_that_come_from_payloads_cannot_stall_the_daemon_one_after_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    exhaust(patterns._of_slow, monkeypatch)
    for number in range(10, 20):
        times_out(f"(?=(a+)+$|{number})", 2)


def test_patterns_that_come_from_payloads_switch_off_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    exhaust(patterns._of_slow, monkeypatch)
    assert compiled("^(?!test)[a-z]+$").found_in("oven")
    assert not compiled("^(?!test)[a-z]+$").found_in("test")


def test_a_pattern_that_has_answered_before_keeps_its_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(ANSWERS):
        assert compiled("(?=(a+)+$)").found_in("aa")
    exhaust(patterns._of_slow, monkeypatch)
    times_out("(?=(a+)+$)", 50)


def test_answers_of_one_pattern_give_patience_to_all(monkeypatch: pytest.MonkeyPatch) -> None:
    exhaust(patterns._of_slow, monkeypatch)
    for _ in range(ANSWERS):
        assert compiled("^(?!test)[a-z]+$").found_in("oven")
    times_out("(?=(a+)+$|9)", 50)


def test_long_texts_for_linear_patterns_cost_the_others_no_patience() -> None:
    text = TEXT + "\r\n"
    before = patterns._of_slow.left
    with pytest.raises(EvaluationError, match="took longer than 100 ms"):
        compiled("(a+)+$").found_in(text)
    assert not patterns.slow("(a+)+$")
    assert patterns._of_slow.left == before


def test_half_a_character_is_a_character() -> None:
    assert compiled("a.").first_in("a\ud800") == "a\ud800"
    assert patterns.fault("\ud800") is None


ANYTHING = st.text(alphabet=st.characters() | st.sampled_from("ab01\\[](){}?*+|^$.&-:<>=!,#PQEpbdswiuxmU"), max_size=60)


@given(pattern=ANYTHING, text=st.text(max_size=200), replacement=st.text(alphabet="ab$1{}\\", max_size=8))
def test_any_pattern_gives_a_value_or_an_evaluation_error(pattern: str, text: str, replacement: str) -> None:
    ready = patterns.compile(pattern)
    assert (ready is None) is (patterns.fault(pattern) is not None)
    if ready is None:
        return
    try:
        first = ready.first_in(text)
        assert ready.found_in(text) is (first is not None)
        assert first is None or first in text
        parts = ready.parts(replacement)
        if parts is not None:
            assert first is not None or ready.replaced_in(text, parts) == text
    except EvaluationError:
        pass


# ── what it costs ───────────────────────────────────────────────────────────────────────────────────────────


def test_patterns_are_kept_and_not_without_bound() -> None:
    assert patterns.compile("a1") is patterns.compile("a1")
    for number in range(KEPT + 10):
        patterns.compile(f"x{number}")
    gc.collect()
    assert sum(isinstance(thing, Re2) for thing in gc.get_objects()) <= KEPT


def test_rules_without_patterns_carry_neither_engine() -> None:
    script = """
import json, sys
import rules.sql.functions.regexes
before = {"re2", "regex"} & sys.modules.keys()
from rules.sql import patterns
patterns.compile("a+")
print(json.dumps([sorted(before), sorted({"re2", "regex"} & sys.modules.keys())]))
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [[], ["re2"]]


def test_an_engine_that_refuses_a_pattern_says_nothing_on_standard_error(capfd: pytest.CaptureFixture[str]) -> None:
    assert patterns.slow("(?:a{1,1000}){1,1000}")
    assert not patterns.slow("b[ab]{300}c")
    compiled("b[ab]{300}c").found_in("ab" * 20_000)
    assert capfd.readouterr().err == ""


def test_what_is_too_long_for_a_pattern_is_not_kept() -> None:
    before = patterns._kept.cache_info().currsize
    for number in range(3):
        assert patterns.compile(f"{number}" * (PATTERN_CHARS_MAX + 1)) is None
    assert patterns._kept.cache_info().currsize == before
