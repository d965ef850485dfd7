"""What the parser makes of statements, and how it says what is wrong with them."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rules.errors import SqlError
from rules.sql.grammar import NESTING_MAX, OPERANDS_MAX
from rules.sql.parser import parse_embedded, parse_statement
from rules.sql.syntax import (
    ArrayLiteral,
    Binary,
    Call,
    Case,
    Cast,
    Exists,
    Expression,
    In,
    Item,
    Literal,
    Logical,
    Member,
    Not,
    ObjectLiteral,
    Path,
    Star,
    Subquery,
    Variable,
)


def where(text: str) -> Expression:
    parsed = parse_statement(f"SELECT * FROM 'a' WHERE {text}").where
    assert parsed is not None
    return parsed


def shape(expression: Expression) -> str:
    """The tree as text, with every operator in brackets."""
    match expression:
        case Literal(value):
            return repr(value)
        case Path(names):
            return ".".join(names)
        case Not(operand):
            return f"[NOT {shape(operand)}]"
        case Binary(operator, left, right):
            return f"[{shape(left)} {operator} {shape(right)}]"
        case Logical(operator, operands):
            return f"[{f' {operator} '.join(map(shape, operands))}]"
        case Call(name, arguments):
            return f"{name}({', '.join(map(shape, arguments))})"
        case Variable(name):
            return f"@{name}"
        case Member(base, names):
            return ".".join([shape(base), *names])
        case Star():
            return "*"
        case Cast(operand, type_):
            return f"cast({shape(operand)} AS {type_})"
        case Case(subject, branches, otherwise):
            parts = [f"WHEN {shape(when)} THEN {shape(then)}" for when, then in branches]
            last = [] if otherwise is None else [f"ELSE {shape(otherwise)}"]
            return " ".join(["CASE", shape(subject), *parts, *last, "END"])
        case In(left, right):
            return f"[{shape(left)} IN {shape(right)}]"
        case ObjectLiteral(members):
            return f"{{{', '.join(f'{key}: {shape(value)}' for key, value in members)}}}"
        case ArrayLiteral(elements):
            return f"<{', '.join(map(shape, elements))}>"
        case Exists(query):
            return f"EXISTS {shape(query)}"
        case Subquery(value, items, source, alias, condition):
            listed = ", ".join(f"{shape(item.expression)} AS {'.'.join(item.key)}" for item in items)
            head = "(SELECT VALUE" if value else "(SELECT"
            tail = [f"AS {alias}"] * bool(alias) + ([] if condition is None else [f"WHERE {shape(condition)}"])
            return " ".join([head, listed, "FROM", shape(source), *tail]) + ")"


@pytest.mark.parametrize(
    ("text", "tree"),
    [
        ("a + b * c", "[a + [b * c]]"),
        ("(a + b) * c", "[[a + b] * c]"),
        ("(t - 32) * 5 / 9", "[[[t - 32] * 5] / 9]"),
        ("a - b - c", "[[a - b] - c]"),
        ("a + '-' + b", "[[a + '-'] + b]"),
        ("timestamp() % 12 = 0", "[[timestamp() % 12] = 0]"),
        ("a > 50 AND b <> 'red'", "[[a > 50] AND [b <> 'red']]"),
        ("a OR b AND c", "[a OR [b AND c]]"),
        ("a AND b OR c AND d", "[[a AND b] OR [c AND d]]"),
        ("a and B And c", "[a AND B AND c]"),
        ("a AND (b AND c)", "[a AND [b AND c]]"),
        ("NOT a = b", "[NOT [a = b]]"),
        ("NOT a AND b", "[[NOT a] AND b]"),
        ("not not a", "[NOT [NOT a]]"),
        ("a = NOT b", "[a = [NOT b]]"),
        ("a = b = c", "[[a = b] = c]"),
        ("a -5", "[a - 5]"),
        ("a - -5", "[a - -5]"),
        ("-5 < a", "[-5 < a]"),
        ("x.y.z", "x.y.z"),
        ("x.end.FROM", "x.end.FROM"),
        ("Topic( 2 )", "topic(2)"),
        ("concat('a', \"b\", c)", "concat('a', 'b', c)"),
        ('\'it\'\'s\' = "say ""hi"""', '["it\'s" = \'say "hi"\']'),
        ("TRUE = False", "[True = False]"),
        ("null = NULL", "[None = None]"),
        ("1E3 + -2.411E247", "[1000.0 + -2.411e+247]"),
        ("1e+3", "1000.0"),
        ("-1E500", "Decimal('-1E+500')"),
        ("12345678901234567890123456789012345", "Decimal('1.234567890123456789012345678901234E+34')"),
        ("1234567890123456789012345678901234", "1234567890123456789012345678901234"),
        ("température", "température"),
        ("topic", "topic"),
        ("value + 1", "[value + 1]"),
        ("1.50", "1.5"),
        ("a IN [1, 'b', c]", "[a IN <1, 'b', c>]"),
        ("a + 1 in b and c", "[[[a + 1] IN b] AND c]"),
        ("NOT a IN b", "[NOT [a IN b]]"),
        ("@v.a.b + @w", "[@v.a.b + @w]"),
        ("topic().a.b", "topic().a.b"),
        ("get((SELECT v FROM e WHERE n='t'), 0).v", "get((SELECT v AS v FROM e WHERE [n = 't']), 0).v"),
        ("{'k-1': a, \"b\": {'c': 1}}", "{k-1: a, b: {c: 1}}"),
        ("{}.a = []", "[{}.a = <>]"),
        ("encode(*, 'base64')", "encode(*, 'base64')"),
        ("Cast(a + 1 as VARCHAR)", "cast([a + 1] AS String)"),
        ("case a when 1 then 'x' WHEN b THEN c else d end", "CASE a WHEN 1 THEN 'x' WHEN b THEN c ELSE d END"),
        ("CASE a WHEN 1 THEN 2 END + 1", "[CASE a WHEN 1 THEN 2 END + 1]"),
        ("EXISTS (SELECT * FROM a.b AS x WHERE x = 3)", "EXISTS (SELECT * AS  FROM a.b AS x WHERE [x = 3])"),
        ("exists", "exists"),
        ("cast + exists", "[cast + exists]"),
        ("(SELECT VALUE n FROM (SELECT * FROM @v)) = 1",
         "[(SELECT VALUE n AS  FROM (SELECT * AS  FROM @v)) = 1]"),
    ],
)
def test_the_tree_of_an_expression(text: str, tree: str) -> None:
    assert shape(where(text)) == tree


@pytest.mark.parametrize(
    ("items", "keys"),
    [
        ("a", [("a",)]),
        ("a AS b", [("b",)]),
        ("a AS value, b AS end", [("value",), ("end",)]),
        ("foo.bar AS bar.baz", [("bar", "baz")]),
        ("foo.bar", [("bar",)]),
        ("topic( 2 )", [("topic( 2 )",)]),
        ("(a + b) * 2, c", [("(a + b) * 2",), ("c",)]),
        ("value", [("value",)]),
        ("value * 2 AS x", [("x",)]),
        ("value, value AS v", [("value",), ("v",)]),
        ("*, * AS message", [(), ("message",)]),
        ("{'a': 1}, {'b': 2} AS c, [1]", [(), ("c",), ("[1]",)]),
        ("get(a, 0).b.c", [("c",)]),
        ("@v", [("@v",)]),
    ],
)
def test_the_keys_of_the_output(items: str, keys: list[tuple[str, ...]]) -> None:
    parsed = parse_statement(f"SELECT {items} FROM 'a'").items
    assert [item.key for item in parsed] == keys


def test_the_parts_of_a_statement_may_be_absent() -> None:
    statement = parse_statement("select *\n")
    assert statement.items == (Item(Star(), ()),)
    assert statement.source is None
    assert statement.where is None
    assert parse_statement("SELECT * FROM 'a/+/#'").source == "a/+/#"


@pytest.mark.parametrize(
    ("text", "line", "column", "message"),
    [
        ("", 1, 1, "begins with SELECT or SET, found the end"),
        ("SELCT *", 1, 1, "begins with SELECT or SET, found 'SELCT'"),
        ("SELECT", 1, 7, "expected a value, found the end"),
        ("SELECT a,\n  FROM 'x'", 2, 3, "found the keyword FROM"),
        ("SELECT a b FROM 'x'", 1, 10, "expected a comma, FROM, WHERE or the end, found 'b'"),
        ("SELECT a FROM x", 1, 15, "topic filter in single quotes, found 'x'"),
        ('SELECT a FROM "x"', 1, 15, "single quotes"),
        ("SELECT a FROM 'x/#/y'", 1, 15, "'#' must stand alone and last"),
        ("SELECT a FROM ''", 1, 15, "must not be empty"),
        ("SELECT a FROM 'x' LIMIT 5", 1, 19, "expected WHERE, GROUP BY or the end, found 'LIMIT'"),
        ("SELECT a FROM 'x' WHERE", 1, 24, "expected a value, found the end"),
        ("SELECT a FROM 'x' WHERE a b", 1, 27, "expected an operator, GROUP BY or the end"),
        ("SELECT a FROM 'x'\nWHERE\n  a >", 3, 6, "expected a value, found the end"),
        ("SELECT a AS 'b'", 1, 13, "AS needs a name, found \"'b'\""),
        ("SELECT a. FROM 'x'", 1, 16, "expected a comma"),
        ("SELECT a.5", 1, 10, "a dot needs a name after it"),
        ("SELECT (a", 1, 10, "expected the ) for this (, found the end"),
        ("SELECT abs(a, ", 1, 15, "expected a value, found the end"),
        ("SELECT a)", 1, 9, "found ')'"),
        ("SELECT 'abc", 1, 8, "no closing '"),
        ("SELECT 'it''s", 1, 8, "no closing '"),
        ("SELECT 5abc", 1, 8, "this is no number"),
        ("SELECT 5.", 1, 8, "this is no number"),
        ("SELECT 1E1000", 1, 8, "beyond the largest number"),
        ("SELECT -a", 1, 8, "write 0 - x"),
        ("SELECT a WHERE a != 1", 1, 18, "write <> for 'not equal'"),
        ("SELECT a WHERE a == 1", 1, 19, "expected a value, found '='"),
        ("SELECT a || b", 1, 10, "write + to join strings"),
        ("SELECT *;", 1, 9, "no semicolon"),
        ("SELECT '\ud800'", 1, 9, "lone surrogate"),
    ],
)
def test_a_fault_is_named_with_its_line_and_column(text: str, line: int, column: int, message: str) -> None:
    with pytest.raises(SqlError) as caught:
        parse_statement(text)
    assert message in caught.value.message
    assert (caught.value.line, caught.value.column) == (line, column)


@pytest.mark.parametrize(
    ("text", "column", "message"),
    [
        ("SELECT a[0] AS c", 9, "there is no [index]: write get(array, 0)"),
        ("SELECT a WHERE b LIKE 'x%'", 18, "there is no LIKE here: write regexp_matches"),
        ("SELECT a WHERE b BETWEEN 1 AND 2", 18, "write a >= low AND a <= high"),
        ("SELECT a WHERE b IS NULL", 18, "write isNull(a) or isUndefined(a)"),
        ("SELECT a WHERE b NOT IN c", 18, "write NOT (a IN b)"),
        ("SELECT CASE WHEN a = 1 THEN 2 END AS b", 13, "CASE needs a value to compare"),
        ("SELECT CASE a END AS b", 15, "CASE needs at least one WHEN, found 'END'"),
        ("SELECT CASE a WHEN 1 2 END AS b", 22, "WHEN needs THEN, found '2'"),
        ("SELECT CASE a WHEN 1 THEN 2 AS b", 29, "CASE needs END, found 'AS'"),
        ("SELECT end AS b", 8, "for a member of that name write get(*, 'end')"),
        ("SELECT cast(a) AS b", 14, "cast needs AS and a type"),
        ("SELECT cast(a AS float) AS b", 18, "cast knows no type float; it knows: string, nvarchar"),
        ("SELECT {a: 1}", 9, "a key is a text in quotes, found 'a'"),
        ("SELECT {'a': 1, 'a': 2}", 17, "the key 'a' stands here twice"),
        ("SELECT {'a' 1}", 13, "expected : after 'a', found '1'"),
        ("SELECT [1, 2 AS b", 14, "expected the ] of this array, found 'AS'"),
        ("SELECT [1,] AS b", 11, "expected a value, found ']'"),
        ("SELECT VALUE a AS b", 16, "SELECT VALUE gives one value, without a name"),
        ("SELECT VALUE a, b", 15, "SELECT VALUE gives one value, without a name"),
        ("SELECT (SELECT a) AS b", 17, "a nested SELECT needs FROM and an array or object"),
        ("SELECT (SELECT a FROM 'x') AS b", 23, "topics belong to the outermost one"),
        ("SELECT * WHERE EXISTS (a)", 24, "EXISTS needs a nested SELECT"),
        ("SELECT * + 1 AS b", 10, "expected a comma, FROM, WHERE or the end"),
        ("SELECT 1 + * AS b", 12, "expected a value, found '*'"),
        ("SET SELECT *", 5, "SET needs @name = value, found 'SELECT'"),
        ("SET @a = 1 @b = 2 SELECT *", 12, "SELECT comes after SET, found '@b'"),
        ("SET @a = 1, @a = 2 SELECT *", 13, "@a has a value already"),
        ("SET @a 1 SELECT *", 8, "expected = after @a"),
        (f"SET @{'a' * 65} = 1 SELECT *", 5, "at most 64 characters"),
        (f"SET {', '.join(f'@v{n} = 1' for n in range(11))} SELECT *", 95, "more than 10 variables"),
        ("SELECT @ AS b", 8, "a variable is @ and letters"),
        ("SELECT a.b-c.'d'", 14, "a dot needs a name after it; for others write get(object, 'a-b')"),
        ("SELECT a.1d", 10, "for a name that begins with a digit: get(*, '1a')"),
        ("SELECT a GROUP a", 16, "GROUP needs BY"),
        ("SELECT a GROUP BY a", 10, "GROUP BY needs one TUMBLING('60 seconds')"),
        ("SELECT a GROUP BY TUMBLING('1 day'), TUMBLING('2 days')", 10, "GROUP BY needs one TUMBLING"),
        ("SELECT a GROUP BY TUMBLING(60)", 28, "TUMBLING takes texts"),
        ("SELECT a GROUP BY TUMBLING('60')", 28, "'60' is no span of time: write '60 seconds'"),
        ("SELECT a GROUP BY TUMBLING('0 seconds')", 28, "is not between a millisecond and a year"),
        ("SELECT a GROUP BY TUMBLING('1 hour', 'a..b')", 38, "the field of the time is a name"),
        ("SELECT a GROUP BY TUMBLING()", 19, "TUMBLING takes 'size'"),
    ],
)
def test_what_the_language_does_not_have_is_refused_with_what_to_write(text: str, column: int, message: str) -> None:
    with pytest.raises(SqlError) as caught:
        parse_statement(text)
    assert message in caught.value.message
    assert (caught.value.line, caught.value.column) == (1, column)


def test_letters_that_only_look_like_keywords_in_upper_case_are_names() -> None:
    assert parse_statement("SELECT ın, aſ FROM 'x' WHERE ın = 1").items[0].key == ("ın",)  # noqa: RUF001
    with pytest.raises(SqlError, match="begins with SELECT or SET"):
        parse_statement("ſELECT a")  # noqa: RUF001


def test_set_comes_before_select() -> None:
    statement = parse_statement("set @a = 1 + 2, @B_9 = @a.b SELECT @B_9 AS x")
    assert [(name, shape(value)) for name, value in statement.variables] == [("a", "[1 + 2]"), ("B_9", "@a.b")]


def test_select_value_has_one_item_without_a_key_and_value_may_be_a_member() -> None:
    assert [parse_statement(f"SELECT VALUE {item} FROM 'x'").value for item in ("a", "{'a': 1}", "[1]", "@v", "'x'")]
    assert parse_statement("SELECT VALUE * FROM 'x'") != parse_statement("SELECT value FROM 'x'")
    assert parse_statement("SELECT VALUE -5").items[0].expression == Literal(-5, (0, 0))
    assert parse_statement("SELECT VALUE -5 FROM 'x'").value
    assert not parse_statement("SELECT value - 5 AS x, value -5 * a AS y").value
    for text in ("value", "value AS a", "value, b", "value + 1 AS b", "value.x AS y", "value IN b AS c"):
        assert not parse_statement(f"SELECT {text} FROM 'x'").value
    assert parse_statement("SELECT (SELECT VALUE n FROM a) AS b").items[0].key == ("b",)


def test_a_window_has_keys_a_size_a_field_and_a_lateness() -> None:
    text = "SELECT a FROM 'x' WHERE b GROUP BY a, topic(2), tumbling('2 minutes', 'at.ms', '10 seconds')"
    window = parse_statement(text).window
    assert window is not None
    assert [shape(key) for key in window.keys] == ["a", "topic(2)"]
    assert (window.size_ms, window.time_field, window.late_ms) == (120_000, ("at", "ms"), 10_000)
    alone = parse_statement("SELECT a GROUP BY TUMBLING('1 Day')").window
    assert alone is not None
    assert (alone.keys, alone.size_ms, alone.time_field, alone.late_ms) == ((), 86_400_000, None, None)


def test_nesting_has_a_bound_and_chains_have_none_but_their_length() -> None:
    deep = NESTING_MAX - 1
    parse_statement(f"SELECT {'(' * deep}a{')' * deep}")
    with pytest.raises(SqlError, match="inside each other"):
        parse_statement(f"SELECT {'(' * 100_000}")
    with pytest.raises(SqlError, match="inside each other"):
        parse_statement(f"SELECT {'NOT ' * 10_000} a")
    parse_statement(f"SELECT {' + '.join(['a'] * OPERANDS_MAX)}")
    with pytest.raises(SqlError, match="2,000 values"):
        parse_statement(f"SELECT {' + '.join(['a'] * (OPERANDS_MAX + 1))}")
    with pytest.raises(SqlError, match="131,072 characters"):
        parse_statement("SELECT" + " " * 200_000)


def test_an_embedded_expression_ends_at_its_brace_whatever_follows() -> None:
    expression, end = parse_embedded("x/${concat('}', a)}/!~§'", 4)
    assert shape(expression) == "concat('}', a)"
    assert end == len("x/${concat('}', a)}")


def test_an_error_knows_its_offset_in_the_text() -> None:
    text = "SELECT a\nFROM 'x'\nWHERE !"
    with pytest.raises(SqlError) as caught:
        parse_statement(text)
    assert text[caught.value.offset_in(text)] == "!"


KEYWORDS = ["SELECT", "FROM", "WHERE", "AS", "AND", "OR", "NOT", "IN", "CASE", "WHEN", "THEN", "ELSE", "END", "SET",
            "VALUE", "EXISTS", "CAST", "NULL", "GROUP", "BY", "TUMBLING"]  # fmt: skip
OTHERS = ["a", "@a", "topic", "abs", "Int", "'x'", '"y"', "'1 day'", "1", "2.5", "1E3", "<>", "<=", "\n",
          *"*(),.+-/%=<>'{}[]@:;!$"]  # fmt: skip
WORDS = st.sampled_from(KEYWORDS + OTHERS)


@given(
    st.text() | st.lists(WORDS, max_size=40).map(" ".join) | st.lists(WORDS).map(lambda ws: "SELECT " + " ".join(ws))
)
@example("SELECT " + "-" * 1000)
@example("SELECT a" + ".a" * 1000)
@example("\ud800")
def test_any_text_parses_or_gives_an_sql_error_inside_it(text: str) -> None:
    error = None
    try:
        parse_statement(text)
    except SqlError as raised:
        error = raised
    assert error is None or 0 <= error.offset_in(text) <= len(text)
