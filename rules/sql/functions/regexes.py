"""regexp_matches, regexp_replace, regexp_substr: Java's regular expressions on Strings.

Arguments become Strings as everywhere; what has no text form, a pattern that is none, and a replacement that names a
group that is not there give Undefined, whether or not the text contains a match. Where nothing matches, regexp_replace
gives the text as it was and regexp_substr Undefined, since there is no text that it could give.

A pattern that takes too long for a text, or a result beyond TEXT_CHARS_MAX, raises EvaluationError.
"""

from typing import Any

from rules.sql import patterns
from rules.sql.functions.function import Function, of_texts
from rules.sql.values import UNDEFINED


def _matches(subject: str, pattern: str) -> Any:
    compiled = patterns.compile(pattern)
    return UNDEFINED if compiled is None else compiled.found_in(subject)


def _substr(subject: str, pattern: str) -> Any:
    compiled = patterns.compile(pattern)
    found = compiled.first_in(subject) if compiled else None
    return UNDEFINED if found is None else found


def _replace(subject: str, pattern: str, replacement: str) -> Any:
    compiled = patterns.compile(pattern)
    parts = compiled.parts(replacement) if compiled else None
    return UNDEFINED if compiled is None or parts is None else compiled.replaced_in(subject, parts)


FUNCTIONS = {
    "regexp_matches": Function(of_texts(_matches), 2, 2),
    "regexp_replace": Function(of_texts(_replace), 3, 3),
    "regexp_substr": Function(of_texts(_substr), 2, 2),
}
