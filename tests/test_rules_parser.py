"""What the parser makes of statements, and how it says what is wrong with them."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rules.errors import SqlError
from rules.parser import NESTING_MAX, OPERANDS_MAX, parse_embedded, parse_statement
from rules.syntax import Binary, Call, Expression, Item, Literal, Logical, Not, Path, Star


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
        ("12345678901234567890123456789012345", "1.234567890123457e+34"),
        ("1234567890123456789012345678901234", "1234567890123456789012345678901234"),
        ("température", "température"),
        ("topic", "topic"),
        ("set + value", "[set + value]"),
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
    ],
)
def test_the_keys_of_the_output(items: str, keys: list[tuple[str, ...]]) -> None:
    parsed = parse_statement(f"SELECT {items} FROM 'a'").items
    assert [item.key for item in parsed if isinstance(item, Item)] == keys


def test_the_parts_of_a_statement_may_be_absent() -> None:
    statement = parse_statement("select *\n")
    assert statement.items == (Star(),)
    assert statement.source is None
    assert statement.where is None
    assert parse_statement("SELECT * FROM 'a/+/#'").source == "a/+/#"


@pytest.mark.parametrize(
    ("text", "line", "column", "message"),
    [
        ("", 1, 1, "begins with SELECT, not with the end"),
        ("SELCT *", 1, 1, "begins with SELECT, not with 'SELCT'"),
        ("SELECT", 1, 7, "expected a value, found the end"),
        ("SELECT a,\n  FROM 'x'", 2, 3, "found the keyword FROM"),
        ("SELECT a b FROM 'x'", 1, 10, "expected a comma, FROM, WHERE or the end, found 'b'"),
        ("SELECT a FROM x", 1, 15, "topic filter in single quotes, found 'x'"),
        ('SELECT a FROM "x"', 1, 15, "single quotes"),
        ("SELECT a FROM 'x/#/y'", 1, 15, "'#' must stand alone and last"),
        ("SELECT a FROM ''", 1, 15, "must not be empty"),
        ("SELECT a FROM 'x' LIMIT 5", 1, 19, "expected WHERE or the end, found 'LIMIT'"),
        ("SELECT a FROM 'x' WHERE", 1, 24, "expected a value, found the end"),
        ("SELECT a FROM 'x' WHERE a b", 1, 27, "expected an operator or the end"),
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
        ("SELECT 1E999", 1, 8, "larger than the largest number"),
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
    ("text", "column", "construct"),
    [
        ("SET @a = 1 SELECT *", 1, "SET"),
        ("SELECT VALUE a FROM 'x'", 8, "SELECT VALUE"),
        ("SELECT VALUE * FROM 'x'", 8, "SELECT VALUE"),
        ("SELECT value {'a': 1}", 8, "SELECT VALUE"),
        ("SELECT * AS message FROM 'x'", 10, "* AS name"),
        ("SELECT (SELECT a FROM b) AS c", 9, "a nested SELECT"),
        ("SELECT CASE a WHEN 1 THEN 2 END AS b", 8, "CASE"),
        ("SELECT * WHERE a IN b", 18, "IN"),
        ("SELECT * WHERE EXISTS (SELECT * FROM a)", 16, "EXISTS"),
        ("SELECT cast(a AS int) AS b", 8, "CAST"),
        ("SELECT {'a': b}", 8, "an object literal"),
        ("SELECT [a, b] AS c", 8, "an array literal"),
        ("SELECT a[0] AS c", 9, "[index]"),
        ("SELECT @a AS b", 8, "a variable"),
        ("SELECT topic().a AS b", 15, "a dot after anything but a name"),
        ("SELECT lower(*) AS b", 14, "* inside an expression"),
    ],
)
def test_what_is_not_supported_yet_is_refused_by_name(text: str, column: int, construct: str) -> None:
    with pytest.raises(SqlError) as caught:
        parse_statement(text)
    assert caught.value.message == f"{construct} is not supported yet"
    assert (caught.value.line, caught.value.column) == (1, column)


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


KEYWORDS = ["SELECT", "FROM", "WHERE", "AS", "AND", "OR", "NOT", "IN", "CASE", "END", "SET", "VALUE", "EXISTS", "NULL"]
OTHERS = ["a", "topic", "abs", "'x'", '"y"', "1", "2.5", "1E3", "<>", "<=", "\n", *"*(),.+-/%=<>'{}[]@:;!$"]
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
