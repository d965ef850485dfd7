"""Which packages AWS's runtime would have brought: found in the imports, unless the package brings its own."""

from pathlib import Path

import pytest

from functions.packages import scanning
from functions.packages.scanning import imports, missing, normal_name, requirements
from tests.packages import zipped


def written(directory: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (directory / name).parent.mkdir(exist_ok=True, parents=True)
        (directory / name).write_text(text)
    return directory


@pytest.mark.parametrize(
    ("source", "found"),
    [
        (b"import boto3", {"boto3"}), (b"import os.path, botocore.config as c", {"os", "botocore"}),
        (b"from urllib3.util import Retry", {"urllib3"}), (b"from . import boto3\nfrom .x import y", set()),
        (b"def f():\n  try:\n    import six\n  except ImportError: pass", {"six"}), (b"x = 'import boto3'", set()),
        (b"import boto3 +", set()), (b"\0", set()), (b"x = '\\d'; import six", {"six"}), (b"print 'Python 2'", set()),
        (b"# coding: latin-1\nx = '\xe9'; import six", {"six"}), (b"x = " + b"(" * 5_000 + b")" * 5_000, set()),
    ],
)  # fmt: skip
def test_imports_are_read_without_running_anything(source: bytes, found: set[str]) -> None:
    assert imports(source) == found


def test_what_the_runtime_would_bring_is_missing(tmp_path: Path) -> None:
    code = written(
        tmp_path / "c", {"app.py": "import json, boto3, numpy, greengrasssdk", "lib/x.py": "import dateutil.parser"}
    )
    assert missing(code) == ["boto3", "greengrasssdk==1.6.1"]  # dateutil comes with boto3; numpy nobody brings
    assert missing("from dateutil import tz\nimport yaml") == ["python-dateutil"]
    assert missing("import botocore, urllib3, s3transfer") == ["botocore", "s3transfer"]
    assert missing("import json") == []
    assert missing(zipped(tmp_path / "f.zip", ("app.py", b"import six"))) == ["six"]


def test_what_the_package_brings_itself_is_not_missing(tmp_path: Path) -> None:
    code = written(tmp_path / "c", {"app.py": "import boto3, six", "boto3/__init__.py": ""})
    assert missing(code) == []
    assert missing(written(tmp_path / "d", {"app.py": "import six", "six.py": ""})) == []


@pytest.mark.parametrize(
    "place", ["python/six.py", "python/lib/python3.12/site-packages/six.py", "python/six/__init__.py"]
)
def test_what_a_layer_brings_is_not_missing(tmp_path: Path, place: str) -> None:
    layer = zipped(tmp_path / "layer.zip", (place, b""))
    assert missing("import six", [layer]) == []
    assert missing("import six", [zipped(tmp_path / "other.zip", ("lib/six.py", b""))]) == ["six"]


@pytest.mark.parametrize(
    "line", ["boto3", "Boto3 >= 1.34", "boto3[crt]==1.34.0 ; python_version > '3'", "boto3 @ file:///x"]
)
def test_what_is_required_is_not_missing(line: str) -> None:
    assert missing("import boto3, botocore", (), [line]) == []


def test_a_requirement_has_the_name_that_the_index_knows() -> None:
    assert [normal_name(line) for line in ("Python_DateUtil>=2", "zope.interface", "-r x.txt", "--hash=1", "")] == [
        "python-dateutil", "zope-interface", "", "", "",
    ]  # fmt: skip


def test_requirements_are_the_lines_of_the_file_at_the_top(tmp_path: Path) -> None:
    text = "# ours\nsix==1.16.0  # pinned\n\n-r more.txt\nidna==3.7 \\\n    --hash=sha256:00\nx @ https://h/x#egg=x\n"
    assert requirements(written(tmp_path / "c", {"requirements.txt": text})) == [
        "six==1.16.0", "-r more.txt", "idna==3.7      --hash=sha256:00", "x @ https://h/x#egg=x",
    ]  # fmt: skip
    assert requirements(written(tmp_path / "d", {"app.py": "", "lib/requirements.txt": "six"})) == []


def test_requirements_that_lie_unpacked_in_the_package_are_not_installed_again(tmp_path: Path) -> None:
    built = zipped(
        tmp_path / "built.zip", ("requirements.txt", b"Python-DateUtil>=2\nsix\nidna"), ("six.py", b""),
        ("python_dateutil-2.9.0.dist-info/METADATA", b""), ("six-1.16.0.dist-info/METADATA", b""),
    )  # fmt: skip
    assert requirements(built) == ["idna"]


def test_only_so_much_is_parsed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = written(tmp_path / "c", {"a.py": "import six", "b/c.py": "import urllib3"})
    monkeypatch.setattr(scanning, "SOURCES_MAX", 1)
    assert missing(code) == ["six"]
    monkeypatch.setattr(scanning, "FILE_BYTES_MAX", 9)
    assert missing(code) == []
