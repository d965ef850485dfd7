"""Secrets are files of a directory, found by name or ARN, remembered for a while, and nothing outside of it."""

import os
from pathlib import Path

import pytest

from core.errors import ConfigurationError
from core.secret_files import REMEMBERED_SECONDS, SECRET_BYTES_MAX, SECRETS_MAX, NoSecret, SecretFiles

ARN = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:"


def test_a_text_is_a_string_and_anything_else_is_base64(tmp_path: Path) -> None:
    (tmp_path / "word").write_text("open sesame\n")
    (tmp_path / "lines").write_text("a\nb\n\n")
    (tmp_path / "key").write_bytes(b"\xff\x00")
    (tmp_path / "empty").write_text("")
    secrets = SecretFiles(tmp_path)
    assert secrets.get("word", 0) == {"SecretString": "open sesame"}
    assert secrets.get("lines", 0) == {"SecretString": "a\nb\n"}
    assert secrets.get("key", 0) == {"SecretBinary": "/wA="}
    assert secrets.get("empty", 0) == {"SecretString": ""}


def test_a_secret_is_found_by_its_arn_with_or_without_the_suffix(tmp_path: Path) -> None:
    (tmp_path / "prod").mkdir()
    (tmp_path / "prod" / "db").write_text("1")
    (tmp_path / "api-token1").write_text("2")
    secrets = SecretFiles(tmp_path)
    assert secrets.get("prod/db", 0) == secrets.get(f"{ARN}prod/db-AbCd12", 0) == {"SecretString": "1"}
    assert secrets.get(f"{ARN}api-token1", 0) == {"SecretString": "2"}  # the name itself ends like that


@pytest.mark.parametrize(
    "name",
    ["", "..", "../word", "a/../../word", "/etc/hostname", "a//b", ".hidden", "a/.b", "word\0", "a b", "x" * 513,
     f"{ARN}../word", "ünicode"],
)  # fmt: skip
def test_no_name_leads_out_of_the_directory(tmp_path: Path, name: str) -> None:
    directory = tmp_path / "secrets"
    (directory / "a").mkdir(parents=True)
    (tmp_path / "word").write_text("outside")
    (directory / ".hidden").write_text("hidden")
    with pytest.raises(NoSecret, match="no name of a secret"):
        SecretFiles(directory).get(name, 0)


def test_what_cannot_be_read_says_why_and_not_what(tmp_path: Path) -> None:
    (tmp_path / "large").write_text("x" * (SECRET_BYTES_MAX + 1))
    (tmp_path / "limit").write_text("x" * SECRET_BYTES_MAX)
    secrets = SecretFiles(tmp_path)
    with pytest.raises(NoSecret, match="'gone': No such file"):
        secrets.get("gone", 0)
    with pytest.raises(NoSecret, match="more than 65,536 bytes") as caught:
        secrets.get("large", 0)
    assert "xx" not in str(caught.value)
    assert len(secrets.get("limit", 0)["SecretString"]) == SECRET_BYTES_MAX


def test_a_changed_secret_is_in_use_after_a_while_or_when_told(tmp_path: Path) -> None:
    (tmp_path / "word").write_text("old")
    secrets = SecretFiles(tmp_path)
    assert secrets.get("word", 100.0)["SecretString"] == "old"
    (tmp_path / "word").write_text("new")
    assert secrets.get("word", 99.9 + REMEMBERED_SECONDS)["SecretString"] == "old"
    assert secrets.get("word", 100.0 + REMEMBERED_SECONDS)["SecretString"] == "new"
    (tmp_path / "word").write_text("newer")
    assert secrets.get("word", 101.0 + REMEMBERED_SECONDS)["SecretString"] == "new"
    secrets.forget()
    assert secrets.get("word", 101.0 + REMEMBERED_SECONDS)["SecretString"] == "newer"


def test_a_secret_that_was_missing_is_looked_for_again(tmp_path: Path) -> None:
    secrets = SecretFiles(tmp_path)
    with pytest.raises(NoSecret):
        secrets.get("late", 0)
    (tmp_path / "late").write_text("here")
    assert secrets.get("late", 0) == {"SecretString": "here"}


def test_memory_has_a_bound(tmp_path: Path) -> None:
    secrets = SecretFiles(tmp_path)
    for number in range(SECRETS_MAX + 10):
        (tmp_path / f"s{number}").write_text("x")
        secrets.get(f"s{number}", 0)
        os.unlink(tmp_path / f"s{number}")
    assert len(secrets._known) <= SECRETS_MAX


def test_a_directory_that_is_not_there_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no directory of secrets"):
        SecretFiles(tmp_path / "nowhere")
