"""One character of a pattern, or a class of them: `a`, `\\x41`, `\\d`, `[a-z&&[^aeiou]]`.

In a class items are united, `&&` between them intersects, and `^` is about the whole (since JDK 9).
"""

from rules.sql.javaregex.scanner import Scanner
from rules.sql.javaregex.sets import Chars, CharSet, chars, complement, intersection, union

DEPTH_MAX = 20  # classes in classes; Java's documentation shows two


def read_character(at: Scanner) -> CharSet:
    """The next character or escape, in the case that the flags ask for."""
    found = _character(at)
    return at.cased(chars((found, found))) if isinstance(found, int) else found


def read_class(at: Scanner, depth: int = 0) -> CharSet:
    """The set of a class whose `[` has been taken."""
    if depth > DEPTH_MAX:
        at.fail(f"classes are nested more than {DEPTH_MAX} deep")
    negative = at.take("^")
    operands: list[CharSet] = []
    items: list[CharSet] = []
    while not (at.ahead("]") and (items or operands)):
        if at.take("&&"):
            operands += [union(*items)] if items else []
            items = []
        elif at.take("["):
            items.append(read_class(at, depth + 1))
        elif at.peek():
            found = _character(at)
            items.append(at.cased(_range(at, found)) if isinstance(found, int) else found)
        else:
            at.fail("a character class without its ']'")
    at.next()
    whole = intersection(*operands, *([union(*items)] if items else []))
    return complement(whole) if negative else whole


def _character(at: Scanner) -> int | CharSet:
    char = at.next()
    return at.escape() if char == "\\" else ord(char)


def _range(at: Scanner, first: int) -> Chars:
    if not at.ahead("-") or at.ahead("-]") or at.ahead("-["):
        return chars((first, first))
    at.next()
    last = _character(at) if at.peek() else -1
    if not isinstance(last, int) or last < first:
        at.fail("a range that ends before it begins")
    return chars((first, last))
