"""Policy documents as files: what AWS IoT takes is taken, what is not understood is refused with its place."""

import json
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import ConfigurationError
from devices.conditions import Context
from devices.policies import decide
from devices.policy_files import BUILT_IN, DOCUMENT_BYTES_MAX, PROBLEMS_MAX, STATEMENTS_MAX, VALUES_MAX, parse, read

GOOD = 'Version: "2012-10-17"\nStatement: [{Effect: Allow, Action: "*", Resource: "*"}]\n'
ANYONE = Context("anyone")


def problems(text: str, file: str = "p.yaml") -> list[str]:
    with pytest.raises(ConfigurationError) as caught:
        parse("p", text, file)
    return [problem.removeprefix(f"{file}:") for problem in caught.value.problems]


def in_statement(text: str) -> str:
    """The only problem of a document with one statement, whose line is the third."""
    [problem] = problems(f'Version: "2012-10-17"\nStatement:\n  - {text}\n')
    return problem


# -- good documents ---------------------------------------------------------------------------------------------------


def test_a_document_of_aws_iot_is_taken_as_it_is() -> None:
    text = json.dumps(
        {
            "Version": "2012-10-17",
            "Id": "x",
            "Statement": [
                {
                    "Sid": "Connect",
                    "Effect": "Allow",
                    "Action": ["iot:Connect"],
                    "Resource": ["arn:aws:iot:us-east-1:123456789012:client/${iot:Connection.Thing.ThingName}"],
                    "Condition": {"Bool": {"iot:Connection.Thing.IsAttached": ["true"]}},
                },
                {
                    "Effect": "Allow",
                    "Action": "iot:Publish",
                    "Resource": "arn:aws:iot:us-east-1:123456789012:topic/\u00e4/\U0001f600",
                },
            ],
        },
        indent="\t",
    )
    policy = parse("p", text, "p.json")
    press = Context("press", "press", attached=True)
    assert decide([policy], "iot:Connect", "client/press", press).allowed
    assert not decide([policy], "iot:Connect", "client/lathe", press).allowed
    assert decide([policy], "iot:Publish", "topic/\u00e4/\U0001f600", press).allowed
    assert [(statement.sid, statement.line) for statement in policy.statements] == [("Connect", 5), ("", 22)]


@pytest.mark.parametrize("text", ["", "# nothing\n", "Version: 2012-10-17\nStatement: []\n"])
def test_an_empty_document_allows_nothing(text: str) -> None:
    assert parse("p", text).statements == ()


def test_a_single_statement_needs_no_list() -> None:
    policy = parse("p", "Version: 2012-10-17\nStatement: {Effect: Allow, Action: iot:Publish, Resource: topic/a}")
    assert decide([policy], "iot:Publish", "topic/a", ANYONE).allowed


def test_the_files_of_a_directory_are_policies_beside_the_built_in_ones(tmp_path: Path) -> None:
    (tmp_path / "mine.json").write_text(json.dumps({"Version": "2012-10-17", "Statement": []}))
    (tmp_path / "default.yaml").write_text(GOOD)
    policies = read(tmp_path)
    assert set(policies) == {"mine", "default", "anonymous"}
    assert policies["default"].file == str(tmp_path / "default.yaml")
    assert decide([policies["default"]], "iot:Publish", "topic/$x", ANYONE).allowed
    assert set(read(None)) == set(BUILT_IN)


def test_the_page_shows_the_built_in_policies_as_they_are() -> None:
    page = (Path(__file__).parent.parent / "docs" / "policies.md").read_text()
    assert all(f"```yaml\n{text}```\n" in page for text in BUILT_IN.values())


# -- bad documents ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("statement", "place", "said"),
    [
        ("{Effect: allow, Action: '*', Resource: '*'}", "3:14:", "Effect must be Allow or Deny"),
        ("{Effect: Allow, Action: iot:Publsh, Resource: '*'}", "3:29:", "did you mean iot:Publish?"),
        ("{Effect: Allow, Action: [iot:Publish, s3:Get], Resource: '*'}", "3:43:", "no such action"),
        ("{Effect: Allow, Action: '${iot:ClientId}', Resource: '*'}", "3:29:", "variables are for"),
        ("{Effect: Allow, Action: '*', Resource: topics/x}", "3:44:", "begins with none of"),
        ("{Effect: Allow, Action: '*', Resource: 'topic/${iot:ClientID2}'}", "3:44:", "did you mean 'iot:ClientId'?"),
        ("{Effect: Allow, Action: '*', Resource: []}", "3:44:", "empty list"),
        ("{Effect: Allow, Action: '*', Resource: {a: b}}", "3:44:", "must be text"),
        ("{Effect: Allow, Action: '*', Resource: }", "3:43:", "must be text"),
        ("{Effect: Allow, Action: '*', Resource: !Sub topic/x}", "3:44:", "must be text"),
        ("{Effect: Allow, Action: '*', Resource: *x}", "3:44:", "needs quotes"),
        ("{Effect: Allow, Action: *, Resource: x}", "3:30:", "needs quotes"),
        ("{Effect: Allow, Action: '*', Resources: '*', Resource: '*'}", "3:34:", "did you mean Resource?"),
        ("{Effect: Allow, Action: '*', NotResource: '*'}", "3:34:", "have no NotResource"),
        ("{Effect: Allow, NotAction: '*', Resource: '*'}", "3:21:", "have no NotAction"),
        ("{Effect: Allow, Action: '*', Resource: '*', Principal: '*'}", "3:49:", "have no Principal"),
        ("{Effect: Allow, Effect: Deny, Action: '*', Resource: '*'}", "3:21:", "twice"),
        ("{Effect: Allow, Action: '*'}", "3:5:", "needs Resource"),
        ("{Action: '*', Resource: '*'}", "3:5:", "needs Effect"),
        ("Allow", "3:5:", "a statement is a mapping"),
    ],
)
def test_a_fault_in_a_statement_is_refused_with_its_place(statement: str, place: str, said: str) -> None:
    problem = in_statement(statement)
    assert problem.startswith(place)
    assert said in problem


@pytest.mark.parametrize(
    ("condition", "said"),
    [
        ("{StringEqual: {iot:ClientId: x}}", "did you mean 'StringEquals'?"),
        ("{DateLessThan: {aws:CurrentTime: x}}", "'DateLessThan' is not known here"),
        ("{'ForAllValues:StringEquals': {iot:ClientId: x}}", "no keys with several values"),
        ("{'ForAnyValue:StringLike': {iot:ClientId: x}}", "no keys with several values"),
        ("{StringEquals: {iot:DomainName: x}}", "'iot:DomainName' is not known here"),
        ("{StringEquals: {iot:Connection.Thing.ThingTypeName: x}}", "is not known here"),
        ("{StringEquals: {iot:ClientId: '${iot:Nothing}'}}", "'iot:Nothing' is not known here"),
        ("{StringEquals: {iot:ClientId: '${tidegate:Topic}'}}", "not a variable"),
        ("{StringEquals: {iot:ClientId: []}}", "empty list"),
        ("{StringEquals: iot:ClientId}", "StringEquals is a mapping"),
        ("[a]", "Condition is a mapping"),
        ("{Bool: {iot:Connection.Thing.IsAttached: yes}}", 'neither "true" nor "false"'),
        ("{NumericLessThan: {iot:ClientId: x}}", "is no number"),
        ("{NumericLessThan: {iot:ClientId: nan}}", "is no number"),
        ("{IpAddress: {aws:SourceIp: 300.1.1.1}}", "no address or range"),
        ("{IpAddress: {iot:ClientId: 192.0.2.1}}", "is for aws:SourceIp"),
    ],
)
def test_a_condition_that_is_not_understood_is_refused(condition: str, said: str) -> None:
    assert said in in_statement(f"{{Effect: Deny, Action: '*', Resource: '*', Condition: {condition}}}")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Statement: []", "1:1: a policy needs Version"),
        ('Version: "2008-10-17"\nStatement: []', '1:10: Version must be "2012-10-17"'),
        ('Version: "2012-10-17"', "1:1: a policy needs Statement"),
        ("[]", "1:1: a policy is a mapping"),
        ("a: b: c", "1:5: mapping values are not allowed here"),
        ("\0", "not YAML or JSON"),
        ('{"\\ud83d": 1}', "half a character"),
        ("[" * 100, "more than 16 levels"),
        ("x" * (DOCUMENT_BYTES_MAX + 1), f"larger than {DOCUMENT_BYTES_MAX:,} bytes"),
    ],
)
def test_a_text_that_is_no_policy_is_refused(text: str, said: str) -> None:
    assert any(said in problem for problem in problems(text))


def test_every_fault_of_a_document_is_told() -> None:
    text = 'Version: "1"\nStatement:\n  - {Effect: x, Action: y, Resource: z}\n  - {}\n'
    assert [problem.split(":")[0] for problem in problems(text)] == ["1", "3", "3", "3", "4", "4", "4"]


def test_documents_are_bounded() -> None:
    many = json.dumps({"Version": "2012-10-17", "Statement": [1] * (STATEMENTS_MAX + 1)})
    assert any(f"more than {STATEMENTS_MAX}" in problem for problem in problems(many))
    assert len(problems(json.dumps({"Version": "2012-10-17", "Statement": [{}] * STATEMENTS_MAX}))) == PROBLEMS_MAX
    assert f"more than {VALUES_MAX:,} values" in in_statement(
        f"{{Effect: Allow, Action: '*', Resource: [{','.join(['client/x'] * (VALUES_MAX + 1))}]}}"
    )


def test_one_fault_in_one_file_and_none_is_used(tmp_path: Path) -> None:
    (tmp_path / "good.yaml").write_text(GOOD)
    (tmp_path / "bad.yaml").write_text("Statement: x")
    (tmp_path / "worse.json").write_text("{")
    (tmp_path / "good.json").write_text("{}")
    with pytest.raises(ConfigurationError) as caught:
        read(tmp_path)
    told = str(caught.value)
    assert all(f"{tmp_path}/{name}:1:" in told for name in ("bad.yaml", "worse.json"))
    assert "good.json is the policy good already" in told


@pytest.mark.parametrize("name", ["-x.yaml", "a b.json", "ä.yaml", "x" * 129 + ".yaml"])
def test_a_file_whose_name_is_no_name_of_a_policy_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(GOOD)
    with pytest.raises(ConfigurationError, match="a policy's name"):
        read(tmp_path)


def test_what_cannot_be_read_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no such file"):
        read(tmp_path / "none")
    (tmp_path / "bytes.yaml").write_bytes(b"\xff")
    with pytest.raises(ConfigurationError, match="not UTF-8"):
        read(tmp_path)


@given(st.text(max_size=80) | st.text("{}[]:,*&!?|>-\"'\\ \n#$aS", max_size=60))
def test_no_text_makes_anything_but_a_policy_or_a_problem(text: str) -> None:
    with suppress(ConfigurationError):
        parse("p", text)


NESTED = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from(["Sid", "Effect", "Action", "Resource", "Condition", "Not"]), NESTED))
def test_no_value_in_a_statement_makes_anything_but_a_policy_or_a_problem(statement: dict[str, object]) -> None:
    with suppress(ConfigurationError):
        parse("p", json.dumps({"Version": "2012-10-17", "Statement": statement}))
