"""Laws of the locks: one holder at a time, named to the others, and nobody waits for the dead."""

import os
import signal
import subprocess
import sys

import pytest

from fastsynth.locks import InUseError, Lock

HOLD = """
import sys
from pathlib import Path
from fastsynth.locks import Lock

lock = Lock(Path(sys.argv[1]))
print(1, flush=True)
input()
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the lock of a folder."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "1\n"
    yield process
    process.kill()
    process.communicate()


def test_the_living_holder_is_named_and_a_dead_one_is_no_obstacle(holder, tmp_path):
    with pytest.raises(InUseError, match=rf"being written by another process \(process {holder.pid} on "):
        Lock(tmp_path)
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert (tmp_path / ".lock").read_text().startswith(f"process {holder.pid} ")  # left behind
    with Lock(tmp_path):
        assert (tmp_path / ".lock").read_text().startswith(f"process {os.getpid()} ")
    assert (tmp_path / ".lock").read_bytes() == b""


def test_shared_holders_do_not_exclude_one_another(tmp_path):
    with Lock(tmp_path, shared=True), Lock(tmp_path, shared=True), pytest.raises(InUseError):
        Lock(tmp_path)
    with Lock(tmp_path), pytest.raises(InUseError):
        Lock(tmp_path, shared=True)
    assert (tmp_path / ".lock").read_bytes() == b""


def test_a_forked_worker_does_not_go_on_holding_the_lock_of_its_parent(tmp_path):
    lock = Lock(tmp_path)
    (end, parent), (told, child_says) = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        os.write(child_says, b"x")
        os.read(end, 1)
        os._exit(0)
    os.read(told, 1)
    os.close(lock._handle)  # as a kill would
    Lock(tmp_path).release()  # while the child lives
    os.write(parent, b"x")
    assert os.waitpid(child, 0)[1] == 0
    lock._handle = None
