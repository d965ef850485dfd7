"""Passwords are kept as salted Argon2id hashes in a form that other software reads."""

import re

import pytest

from core.errors import TidegateError
from devices import passwords


def test_only_the_password_that_was_hashed_is_right() -> None:
    phc = passwords.hash(b"correct horse")
    assert passwords.verify(phc, b"correct horse")
    for wrong in (b"", b"correct hors", b"correct horse ", b"correct horse\0", b"Correct horse", b"x" * 2_000):
        assert not passwords.verify(phc, wrong)


def test_a_hash_is_salted_and_names_the_recommended_parameters() -> None:
    one, other = passwords.hash(b"secret"), passwords.hash(b"secret")
    assert one != other
    assert re.fullmatch(r"\$argon2id\$v=19\$m=19456,t=2,p=1\$[A-Za-z0-9+/]{22}\$[A-Za-z0-9+/]{43}", one)


def test_a_hash_of_the_reference_implementation_is_understood() -> None:
    # From test.c of the reference implementation of Argon2 (version 1.3, type id).
    phc = "$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc"
    assert passwords.verify(phc, b"password")
    assert not passwords.verify(phc, b"passwore")


@pytest.mark.parametrize("phc", ["", "x", "$argon2id$v=19$m=19456,t=2,p=1$AA", "$2b$12$abcdefghijklmnopqrstuv", "\0"])
def test_what_is_no_hash_is_nobodys_password(phc: str) -> None:
    assert not passwords.verify(phc, b"secret")
    assert not passwords.verify(phc, b"")


@pytest.mark.parametrize("password", [b"", b"x" * 1_025])
def test_empty_and_overlong_passwords_are_refused(password: bytes) -> None:
    with pytest.raises(TidegateError, match="1 to 1,024 bytes"):
        passwords.hash(password)


def test_any_bytes_may_be_a_password() -> None:
    for password in (b"\0", "pässwörd".encode(), b"\xff" * 1_024):
        assert passwords.verify(passwords.hash(password), password)
