"""The sets that have names in a pattern: `\\d \\h \\s \\v \\w`, and `\\p{name}` as java.util.regex.Pattern reads it.

Whatever is a fixed list of characters is one here. A Unicode property is left to the engine: categories and most
scripts are known to RE2 too, blocks and binary properties only to `regex`. Names that Java does not know are
refused; whether a script or block exists only the engine can tell.
"""

from rules.sql.javaregex.sets import LAST, CharSet, Property, chars, complement, intersection, letters, union

UPPER, LOWER, DIGIT = chars((65, 90)), chars((97, 122)), chars((48, 57))
ALPHA = union(UPPER, LOWER)
WORD = union(ALPHA, DIGIT, letters("_"))
SPACE = letters(" \t\n\x0b\f\r")
BLANK = letters(" \t")
HORIZONTAL = union(letters("\t \xa0\u1680\u180e\u202f\u205f\u3000"), chars((0x2000, 0x200A)))
VERTICAL = letters("\n\x0b\f\r\x85\u2028\u2029")
PUNCT = letters("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~")
HEX = chars((48, 57), (65, 70), (97, 102))
CONTROL = chars((0, 31), (127, 127))


def category(name: str) -> Property:
    """A general category such as L or Lu, which both engines know."""
    return Property(name, name)


def binary(name: str) -> Property:
    """A binary property, which only `regex` knows."""
    return Property(None, name)


LETTER, NUMERAL, MARK = category("L"), category("Nd"), category("M")
ALPHABETIC, LOWERCASE, UPPERCASE = binary("Alphabetic"), binary("Lowercase"), binary("Uppercase")
UNASSIGNED = binary("Cn")  # RE2 has no name for it, and its C leaves it out
WHITE_SPACE = union(letters(" \xa0\u1680\u202f\u205f\u3000"), VERTICAL, chars((9, 13), (0x2000, 0x200A)))
NO_BREAK = letters("\xa0\u2007\u202f")
WORD_UNICODE = union(ALPHABETIC, MARK, NUMERAL, category("Pc"), chars((0x200C, 0x200D)))
GRAPH_UNICODE = complement(union(WHITE_SPACE, category("Cc"), category("Cs"), UNASSIGNED))

ESCAPES = {"d": DIGIT, "h": HORIZONTAL, "s": SPACE, "v": VERTICAL, "w": WORD}
ESCAPES_UNICODE = ESCAPES | {"d": NUMERAL, "s": WHITE_SPACE, "w": WORD_UNICODE}

POSIX: dict[str, CharSet] = {
    "Alnum": union(ALPHA, DIGIT), "Alpha": ALPHA, "ASCII": chars((0, 127)), "Blank": BLANK, "Cntrl": CONTROL,
    "Digit": DIGIT, "Graph": chars((33, 126)), "Lower": LOWER, "Print": chars((32, 126)), "Punct": PUNCT,
    "Space": SPACE, "Upper": UPPER, "XDigit": HEX,
}  # fmt: skip
POSIX_UNICODE = POSIX | {
    "Alnum": union(ALPHABETIC, NUMERAL), "Alpha": ALPHABETIC, "Blank": union(letters("\t"), category("Zs")),
    "Cntrl": category("Cc"), "Digit": NUMERAL, "Graph": GRAPH_UNICODE, "Lower": LOWERCASE,
    "Print": intersection(union(GRAPH_UNICODE, category("Zs")), complement(category("Cc"))), "Punct": category("P"),
    "Space": WHITE_SPACE, "Upper": UPPERCASE, "XDigit": union(NUMERAL, binary("Hex_Digit")),
}  # fmt: skip
OF_POSIX = {name.upper(): known for name, known in POSIX_UNICODE.items()}  # as \\p{IsAlpha}

CATEGORIES: dict[str, CharSet] = {
    **{name: category(name) for name in (
        "L", "Lu", "Ll", "Lt", "Lm", "Lo", "M", "Mn", "Mc", "Me", "N", "Nd", "Nl", "No", "P", "Pc", "Pd", "Ps", "Pe",
        "Pi", "Pf", "Po", "S", "Sm", "Sc", "Sk", "So", "Z", "Zs", "Zl", "Zp", "Cc", "Cf", "Co", "Cs",
    )},
    "Cn": UNASSIGNED, "C": union(category("C"), UNASSIGNED), "L1": chars((0, 255)), "LD": union(LETTER, NUMERAL),
    "LC": union(category("Lu"), category("Ll"), category("Lt")), "all": chars((0, LAST)),
}  # fmt: skip

OF_JAVA: dict[str, CharSet] = {
    "javaAlphabetic": ALPHABETIC, "javaDefined": complement(UNASSIGNED), "javaDigit": NUMERAL,
    "javaIdeographic": binary("Ideographic"), "javaISOControl": chars((0, 31), (127, 159)), "javaLetter": LETTER,
    "javaLetterOrDigit": union(LETTER, NUMERAL), "javaLowerCase": LOWERCASE, "javaMirrored": binary("Bidi_Mirrored"),
    "javaSpaceChar": category("Z"), "javaTitleCase": category("Lt"), "javaUpperCase": UPPERCASE,
    "javaWhitespace": union(intersection(category("Z"), complement(NO_BREAK)), chars((9, 13), (28, 31))),
}  # fmt: skip

HEX_DIGIT, JOIN_CONTROL = union(NUMERAL, binary("Hex_Digit")), chars((0x200C, 0x200D))
NO_CHARACTER = binary("Noncharacter_Code_Point")
BINARY: dict[str, CharSet] = {
    "ALPHABETIC": ALPHABETIC, "ASSIGNED": complement(UNASSIGNED), "CONTROL": category("Cc"), "DIGIT": NUMERAL,
    "HEX_DIGIT": HEX_DIGIT, "HEXDIGIT": HEX_DIGIT, "IDEOGRAPHIC": binary("Ideographic"), "JOIN_CONTROL": JOIN_CONTROL,
    "JOINCONTROL": JOIN_CONTROL, "LETTER": LETTER, "LOWERCASE": LOWERCASE, "NONCHARACTER_CODE_POINT": NO_CHARACTER,
    "NONCHARACTERCODEPOINT": NO_CHARACTER, "PUNCTUATION": category("P"), "TITLECASE": category("Lt"),
    "UPPERCASE": UPPERCASE, "WHITE_SPACE": WHITE_SPACE, "WHITESPACE": WHITE_SPACE,
}  # fmt: skip

CASED = {"Lower", "Upper", "Ll", "Lu", "Lt", "javaLowerCase", "javaUpperCase", "javaTitleCase",
         "LOWER", "LOWERCASE", "TITLECASE", "UPPER", "UPPERCASE"}  # fmt: skip


def named(name: str, unicode: bool, any_case: bool) -> CharSet | None:
    """The set of `\\p{name}`; None if Java has no such name.

    `unicode` is UNICODE_CHARACTER_CLASS. With `any_case` the properties that ask for a case take every case.
    """
    key, equals, value = name.partition("=")
    if equals:
        key, value = key.lower(), value.strip()
        if key in {"gc", "general_category"}:
            return _of_category(value, any_case)
        if key in {"sc", "script"}:
            return script(value)
        return block(value) if key in {"blk", "block"} else None
    if name.startswith("In"):
        return block(name[2:])
    if name.startswith("Is"):
        short = name[2:]
        known = BINARY.get(short.upper()) or OF_POSIX.get(short.upper())
        if known is not None:
            return _caseless(short.upper(), any_case) or known
        return _of_category(short, any_case) or script(short)
    table = POSIX_UNICODE if unicode else POSIX
    known = table.get(name) or OF_JAVA.get(name)
    return (_caseless(name, any_case, unicode) or known) if known is not None else _of_category(name, any_case)


def _of_category(name: str, any_case: bool) -> CharSet | None:
    return _caseless(name, any_case) or CATEGORIES.get(name)


def _caseless(name: str, any_case: bool, unicode: bool = True) -> CharSet | None:
    if not any_case or name not in CASED:
        return None
    if name in {"Lower", "Upper"} and not unicode:
        return ALPHA
    return CATEGORIES["LC"] if len(name) == 2 else union(LOWERCASE, UPPERCASE, category("Lt"))


def script(name: str) -> CharSet | None:
    """The characters of a script; RE2 knows scripts by their full name."""
    if not _is_plain(name):
        return None
    full = "_".join(part.capitalize() for part in name.split("_"))
    return Property(full if len(name) > 4 or full in {"Cham", "Lisu", "Thai"} else None, f"Script={full}")


def block(name: str) -> CharSet | None:
    """The characters of a block."""
    return Property(None, f"Block={name}") if _is_plain(name.replace(" ", "_").replace("-", "_")) else None


def _is_plain(name: str) -> bool:
    return name.isascii() and name.replace("_", "").isalnum()
