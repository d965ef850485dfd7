"""The memory of a process and of what it started, as /proc shows it."""

import os
import resource
import subprocess
import sys

from functions.workers import memory

HOLDER = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "x = bytearray(50 << 20)\\nprint(flush=True)\\ninput()"],
                         stdin=subprocess.PIPE)
sys.stdin.read()
child.communicate()
"""


def test_what_a_process_started_counts_and_the_process_itself_only_when_it_is_alone() -> None:
    with subprocess.Popen([sys.executable, "-c", HOLDER], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"\n"
        assert 50 << 20 <= memory.resident(holder.pid) < 90 << 20
        assert memory.peak(holder.pid) >= memory.resident(holder.pid) - (1 << 20)
        holder.communicate(b"")
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
    assert 0 < memory.resident(os.getpid()) <= memory.peak(os.getpid()) <= own + (1 << 20)


def test_a_process_that_is_not_there_has_nothing() -> None:
    with subprocess.Popen(["true"]) as gone:
        pass
    assert memory.resident(gone.pid) == memory.peak(gone.pid) == 0
