"""Numbers for workers: one each, on the whole machine."""

import subprocess
import sys
from pathlib import Path

import pytest

from functions.launcher import sandbox
from functions.launcher.users import Users

OTHER = """
import sys
from functions.launcher.users import Users
users = Users(sys.argv[1])
print([users.take() for _ in range(3)], flush=True)
sys.stdin.read()
"""


def test_two_launchers_give_out_no_number_twice_until_one_ends(tmp_path: Path) -> None:
    file = str(tmp_path / "lock")
    command = [sys.executable, "-c", OTHER, file]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdin is not None
        assert other.stdout is not None
        taken = set(eval(other.stdout.readline()))
        assert len(taken) == 3
        ours = {(users := Users(file)).take() for _ in range(1)}
        ours |= {users.take() for _ in range(len(sandbox.USERS) - 4)}
        assert ours == set(sandbox.USERS) - taken
        with pytest.raises(sandbox.Unusable, match="are taken"):
            users.take()
        other.stdin.close()
        other.wait()
    assert {users.take() for _ in range(3)} == taken


def test_a_number_that_was_given_back_is_the_last_to_be_used_again(tmp_path: Path) -> None:
    users = Users(str(tmp_path / "lock"))
    first = users.take()
    users.give_back(first)
    assert [users.take() for _ in sandbox.USERS][-1] == first


def test_without_a_place_for_the_file_numbers_are_told_apart_in_one_launcher(tmp_path: Path) -> None:
    users = Users(str(tmp_path / "nowhere" / "lock"))
    assert len({users.take() for _ in sandbox.USERS}) == len(sandbox.USERS)
