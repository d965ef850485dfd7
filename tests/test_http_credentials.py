"""Files of access keys and tokens: AWS's own format, every fault named, and no secret in a message."""

import os
from pathlib import Path

import pytest

from core.errors import ConfigurationError
from core.http.credentials import AccessKey, read_access_keys, read_tokens, token_hash

KEYS = """\
# as `aws configure` writes it
[default]
aws_access_key_id = AKIDEXAMPLE
aws_secret_access_key = wJalrXUtnFEMI/K7MDENG=+%(x)s

[operator]
aws_access_key_id=AKIDOTHER
aws_secret_access_key=abcdefghijklmnop
region = eu-west-1
"""


def file(directory: Path, text: str | bytes, mode: int = 0o600) -> Path:
    path = directory / "credentials"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    path.chmod(mode)
    return path


def test_access_keys_are_read_as_aws_tools_write_them(tmp_path: Path) -> None:
    assert read_access_keys(file(tmp_path, KEYS)) == {
        "AKIDEXAMPLE": AccessKey("default", "wJalrXUtnFEMI/K7MDENG=+%(x)s"),
        "AKIDOTHER": AccessKey("operator", "abcdefghijklmnop"),
    }


def test_tokens_are_kept_as_their_hashes(tmp_path: Path) -> None:
    tokens = read_tokens(file(tmp_path, "[grafana]\ntoken = 3f6b0c1e9d4a4b7e\n"))
    assert tokens == {token_hash("3f6b0c1e9d4a4b7e"): "grafana"}
    assert "3f6b0c1e9d4a4b7e" not in repr(tokens)


def test_a_secret_is_in_no_repr(tmp_path: Path) -> None:
    assert "abcdefghijklmnop" not in repr(read_access_keys(file(tmp_path, KEYS)))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no section"),
        ("secret-of-mine-without-a-section = 1", "no file of"),
        ("[a]\nsecret-of-mine\n", "no file of"),
        (b"\xff", "UTF-8"),
        ("[a]\naws_secret_access_key = secret-of-mine-long\n", "aws_access_key_id is missing"),
        ("[a]\naws_access_key_id = AKID\n", "aws_secret_access_key is missing"),
        ("[a]\naws_access_key_id = AKID\naws_secret_access_key = secret-of-mine\n", "shorter than 16"),
        ("[a]\naws_access_key_id = A/B C\naws_secret_access_key = secret-of-mine-long\n", "characters"),
        (KEYS.replace("AKIDOTHER", "AKIDEXAMPLE"), "that of [default] too"),
    ],
)
def test_every_fault_is_named_and_no_secret(tmp_path: Path, text: str | bytes, words: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        read_access_keys(file(tmp_path, text))
    assert words in str(caught.value)
    assert "secret-of-mine" not in str(caught.value)


@pytest.mark.parametrize("token", ["", "short", "with space in it....", "ümläute-ümläute-ümläute"])
def test_a_token_that_could_be_guessed_or_not_be_sent_is_refused(tmp_path: Path, token: str) -> None:
    with pytest.raises(ConfigurationError, match="token"):
        read_tokens(file(tmp_path, f"[a]\ntoken = {token}\n"))


def test_two_names_for_one_token_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"that of \[a\] too"):
        read_tokens(file(tmp_path, "[a]\ntoken = 3f6b0c1e9d4a4b7e\n[b]\ntoken = 3f6b0c1e9d4a4b7e\n"))


@pytest.mark.parametrize(
    ("mode", "good"), [(0o600, True), (0o440, True), (0o640, True), (0o644, False), (0o660, False), (0o601, False)]
)
def test_a_file_that_is_open_to_others_is_refused(tmp_path: Path, mode: int, good: bool) -> None:
    path = file(tmp_path, KEYS, mode)
    if good:
        assert len(read_access_keys(path)) == 2
    else:
        with pytest.raises(ConfigurationError, match="chmod"):
            read_access_keys(path)


def test_a_file_that_is_not_there_or_endless_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be read"):
        read_access_keys(tmp_path / "nothing")
    with pytest.raises(ConfigurationError, match="larger"):
        read_access_keys(file(tmp_path, KEYS + "# more\n" * 60_000))
    with pytest.raises(ConfigurationError):
        read_access_keys(Path(os.devnull))
