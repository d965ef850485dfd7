"""Deploying: a template whole or not at all, every fault before anything is changed, and what is added to a package."""

import json
import re
import zipfile
from pathlib import Path

import pytest

from functions.names import FunctionName
from functions.runtimes import find_node
from tests.functions_command import HANDLER, Box, function

RULE = {"Type": "IoTRule", "Properties": {"Sql": "SELECT * FROM 'plant/#'", "AwsIotSqlVersion": "2016-03-23"}}


@pytest.fixture
def box(tmp_path: Path) -> Box:
    return Box.make(tmp_path)


def wheel(directory: Path, name: str, source: str) -> None:
    """A wheel of one module."""
    directory.mkdir(exist_ok=True)
    info = f"{name}-1.0.dist-info"
    with zipfile.ZipFile(directory / f"{name}-1.0-py3-none-any.whl", "w") as archive:
        archive.writestr(f"{name}.py", source)
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")


def test_every_function_of_a_template_becomes_a_version_and_its_alias_moves(box: Box) -> None:
    template = box.template({"A": function(AutoPublishAlias="live"), "B": function(FunctionName="b-function")})
    for number in (1, 2):
        rows = box.json("deploy", template)["functions"]
        assert [(row["name"], row["version"], row["alias"]) for row in rows] == [
            ("A", number, "live"), ("b-function", number, None),
        ]  # fmt: skip
        assert box.library.aliases("A") == {"$LATEST": number, "live": number}
        assert box.library.aliases("b-function") == {"$LATEST": number}
    assert (box.library.find(FunctionName("A")).code / "app.py").read_text() == HANDLER


def test_a_directory_with_a_template_is_deployed_like_the_template(box: Box) -> None:
    box.template({"A": function()})
    assert "A:1" in box.ok("deploy", box.path)


def test_one_function_of_a_template_can_be_deployed_alone(box: Box) -> None:
    template = box.template({"A": function(), "B": function(CodeUri="nowhere")})
    box.ok("deploy", template, "--function", "A")
    assert box.library.names() == ["A"]


def test_a_bare_directory_and_a_zip_are_deployed_with_options(box: Box) -> None:
    with zipfile.ZipFile(box.path / "code.zip", "w") as archive:
        archive.writestr("app.py", HANDLER)
    what = ["--runtime", "python3.11", "--handler", "app.handler"]
    box.ok("deploy", box.path / "src", "--name", "plain", *what)
    more = ["--timeout", 30, "--memory", 64, "--env", "KEY=b=c", "--topic", "plant/#", "--pinned", "--alias", "live"]
    box.ok("deploy", box.path / "code.zip", "--name", "zipped", *what, *more)
    plain, zipped = box.library.current()
    assert (plain.manifest.name, plain.manifest.timeout, plain.manifest.concurrency) == ("plain", 3, 2)
    found = zipped.manifest
    assert (found.timeout, found.memory_mb, found.environment) == (30, 64, {"KEY": "b=c"})
    assert (found.topics, found.pinned, found.concurrency, found.alias) == (("plant/#",), True, 1, "live")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "has no template (template.yaml): say --name, --runtime and --handler"),
        (("--name", "a", "--handler", "a.b", "--runtime", "java21"), "'java21' does not run here"),
        (("--name", "a", "--handler", "a.b", "--runtime", "python3.11", "--env", "A"), "'A': write KEY=VALUE"),
        (("--name", "a", "--handler", "a.b", "--runtime", "python3.11", "--topic", "a/#/b"), "'#' must stand alone"),
    ],
)
def test_a_package_that_says_too_little_or_nonsense_is_a_usage_error(
    box: Box, arguments: tuple[str, ...], words: str
) -> None:
    assert words in re.sub(r"[│\s]+", " ", box.fails("deploy", box.path / "src", *arguments, code=2))


def test_a_name_that_lambda_would_not_take_is_a_fault(box: Box) -> None:
    what = ("--runtime", "python3.11", "--handler", "app.handler")
    assert "name" in box.fails("deploy", box.path / "src", "--name", "a b", *what, code=78)


def test_a_faulty_template_changes_nothing_and_exits_with_78(box: Box) -> None:
    template = box.template({"A": function(), "B": function(Timeout=1_000)})
    said = box.fails("deploy", template, code=78)
    assert "template.yaml:1:" in said
    assert "Properties.Timeout: must be less than or equal to 900" in said
    assert box.library.names() == []


def test_when_one_function_cannot_be_installed_none_of_them_is(box: Box) -> None:
    template = box.template({"A": function(AutoPublishAlias="live"), "C": function()})
    box.ok("deploy", template)
    (box.path / "broken.zip").write_bytes(b"PK\x03\x04 not a zip")
    box.template({"A": function(AutoPublishAlias="live"), "C": function(CodeUri="broken.zip"), "N": function()})
    box.fails("deploy", template)
    assert box.library.names() == ["A", "C"]
    assert box.library.aliases("A") == {"$LATEST": 1, "live": 1}
    (box.path / "src" / "requirements.txt").write_text("no-such-package-anywhere\n")
    box.template({"N": function(InlineCode="def handler(e, c): pass", Handler="index.handler") | {}, "C": function()})
    text = json.loads(template.read_text())
    del text["Resources"]["N"]["Properties"]["CodeUri"]
    template.write_text(json.dumps(text))
    said = box.fails("deploy", template, "--wheels", box.path / "rules")
    assert "no-such-package-anywhere" in said
    assert box.library.names() == ["A", "C"]
    assert box.library.aliases("C") == {"$LATEST": 1}


def test_a_dry_run_says_what_would_be_done_and_does_nothing(box: Box) -> None:
    (box.path / "src" / "app.py").write_text("import greengrasssdk\n")
    template = box.template({"A": function(Events={"Hot": RULE})})
    [plan] = box.json("deploy", template, "--dry-run")["functions"]
    assert (plan["name"], plan["version"], plan["rules"]) == ("A", None, True)
    assert plan["requirements"] == ["greengrasssdk==1.6.1"]
    assert not (box.path / "functions").exists()


def test_requirements_come_from_a_directory_of_wheels(box: Box) -> None:
    wheel(box.path / "wheels", "leaf", "WHAT = 'leaf'\n")
    (box.path / "src" / "requirements.txt").write_text("leaf==1.0\n")
    box.ok("deploy", box.template({"A": function()}), "--wheels", box.path / "wheels")
    [package] = box.library.current()
    assert package.site_packages is not None
    assert (package.site_packages / "leaf.py").read_text() == "WHAT = 'leaf'\n"


def test_what_awss_runtime_brings_is_added_with_a_note_and_not_when_it_is_there(box: Box) -> None:
    wheel(box.path / "wheels", "boto3", "client = print\n")
    (box.path / "src" / "app.py").write_text(f"import boto3\n{HANDLER}")
    template = box.template({"A": function()})
    ended = box.run("deploy", template, "--wheels", box.path / "wheels")
    assert "A: adds boto3, which AWS's runtime brings" in ended.stderr
    [package] = box.library.current()
    assert package.site_packages is not None
    assert (package.site_packages / "boto3.py").exists()
    (box.path / "src" / "boto3.py").write_text("client = print\n")
    assert "adds" not in box.run("deploy", template).stderr


def test_without_installing_the_package_is_taken_as_it_is(box: Box) -> None:
    (box.path / "src" / "requirements.txt").write_text("no-such-package-anywhere\n")
    box.ok("deploy", box.template({"A": function()}), "--no-install")
    [package] = box.library.current()
    assert package.site_packages is None


def test_requirements_may_lie_elsewhere(box: Box) -> None:
    wheel(box.path / "wheels", "leaf", "")
    (box.path / "pinned.txt").write_text("leaf==1.0  # exactly\n")
    resource = function() | {"Metadata": {"Tidegate": {"Requirements": "pinned.txt"}}}
    box.ok("deploy", box.template({"A": resource}), "--wheels", box.path / "wheels")
    assert box.library.current()[0].site_packages is not None


@pytest.mark.parametrize(
    ("properties", "words"),
    [
        ({"Handler": "main.handler"}, "Handler main.handler: the package has no main.py; at its top there is app.py"),
        ({"Handler": "app"}, "Handler app: write FILE.FUNCTION, as app.handler"),
        ({"Handler": "app."}, "Handler app.: write FILE.FUNCTION"),
        ({"Handler": "index.handler", "Runtime": "nodejs20.x"}, "the package has no index.js"),
        ({"Runtime": "provided.al2023"}, "bootstrap: provided.* needs an executable of this name"),
    ],
)
def test_what_could_not_run_does_not_replace_what_works_and_a_dry_run_says_so_too(
    box: Box, properties: dict[str, object], words: str
) -> None:
    if properties.get("Runtime") == "nodejs20.x" and find_node(20) is None:
        words = "there is no node on this machine"
    box.ok("deploy", box.template({"A": function(), "B": function()}))
    template = box.template({"A": function(), "B": function(**properties)})
    for more in ((), ("--dry-run",)):
        said = box.fails("deploy", template, *more, code=78)
        assert words in said
        assert "unpacking" not in said  # not even the good one was begun
    assert (box.library.aliases("A"), box.library.aliases("B")) == ({"$LATEST": 1}, {"$LATEST": 1})


def test_a_handler_may_come_from_a_layer_or_from_requirements(box: Box) -> None:
    wheel(box.path / "wheels", "leaf", HANDLER)
    (box.path / "layer" / "python").mkdir(parents=True)
    (box.path / "layer" / "python" / "shared.py").write_text(HANDLER)
    box.ok("deploy", box.template({"L": function(Handler="shared.handler", Layers=["layer"])}))
    (box.path / "src" / "requirements.txt").write_text("leaf==1.0\n")
    wheels = ("--wheels", box.path / "wheels")
    box.ok("deploy", box.template({"R": function(Handler="leaf.handler")}), *wheels)
    said = box.fails("deploy", box.template({"R": function(Handler="lead.handler")}), *wheels, code=78)
    assert "the package has no lead.py" in said
    assert box.library.aliases("R") == {"$LATEST": 1}


def test_a_path_that_is_not_there_is_said_to_be_not_there(box: Box) -> None:
    assert "nope: there is no such file or directory" in box.fails("deploy", box.path / "nope")
    assert "there is no such file" in box.fails("deploy", box.path / "nope.yaml")


def test_a_bootstrap_that_is_not_there_is_a_fault_and_nothing_is_kept(box: Box) -> None:
    said = box.fails("deploy", box.template({"A": function(Runtime="provided.al2023")}), code=78)
    assert "bootstrap" in said
    assert box.library.names() == []


# ── rules ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_function_brings_its_rules_and_takes_them_along(box: Box) -> None:
    template = box.template({"A": function(Events={"Hot": RULE})})
    box.ok("deploy", template)
    [text] = box.library.rules().values()
    assert json.loads(text)[0]["topicRulePayload"]["actions"] == [{"lambda": {"functionArn": "A"}}]
    box.ok("deploy", template)  # its own rule of before is not in the way
    assert len(box.library.rules()) == 1
    box.template({"A": function()})
    box.ok("deploy", template)
    assert box.library.rules() == {}


def test_a_rule_whose_name_is_taken_is_a_fault_before_anything_is_installed(box: Box) -> None:
    (box.path / "rules" / "mine.yaml").write_text("AHot: { sql: SELECT * FROM 'x', actions: [] }\n")
    said = box.fails("deploy", box.template({"A": function(Events={"Hot": RULE})}), code=78)
    assert "there is a rule AHot already, in" in said
    assert box.library.names() == []


def test_the_rules_of_other_functions_count_too(box: Box) -> None:
    box.ok("deploy", box.template({"A": function(Events={"Hot": RULE})}))
    other = box.template({"AH": function(Events={"ot": RULE})}, "other.yaml")
    assert "there is a rule AHot already, in" in box.fails("deploy", other, code=78)
    assert box.library.names() == ["A"]


@pytest.mark.parametrize("alias", ["7", "$LATEST", "../x", "a b", "x" * 129])
def test_what_can_be_no_alias_is_refused_and_the_aliases_that_are_there_stay(box: Box, alias: str) -> None:
    words = ("deploy", box.path / "src", "--name", "press", "--runtime", "python3.11", "--handler", "app.handler")
    box.ok(*words, "--alias", "live")
    assert "alias" in box.fails(*words, "--alias", alias, code=78)
    assert box.library.aliases("press") == {"$LATEST": 1, "live": 1}
    box.ok(*words)
    assert box.library.aliases("press") == {"$LATEST": 2, "live": 1}
