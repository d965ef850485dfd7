"""What is below a process, as the guard finds it."""

import os
import subprocess

from functions.launcher.guard import descendants


def test_children_and_theirs_are_found_and_nothing_else() -> None:
    script = "(sleep 60 & echo $!; wait) & echo $!; wait"
    process = subprocess.Popen(["sh", "-c", script], stdout=subprocess.PIPE, text=True, start_new_session=True)
    other = subprocess.Popen(["sleep", "60"])
    try:
        assert process.stdout is not None
        printed = {int(process.stdout.readline()) for _ in range(2)}
        assert descendants(process.pid) == printed
        assert descendants(os.getpid()) >= {process.pid, other.pid} | printed
        assert descendants(other.pid) == set()
    finally:
        os.killpg(process.pid, 9)
        other.kill()
        process.communicate()
        other.wait()
