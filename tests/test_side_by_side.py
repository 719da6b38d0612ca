"""Laws of work side by side: all pieces are done, errors and stops come home, nobody outlives the parent."""

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import torch

from fastsynth.side_by_side import shares, work_side_by_side
from fastsynth.stopping import gentle_stop


def write_square(folder: Path, number: int, report) -> None:
    (folder / str(number)).write_text(f"{number**2} {torch.get_num_threads()} {os.getpid()}")
    report(number)


def refuse(report) -> None:
    raise ValueError("mask is (4, 4), its image is (8, 8)")


def refuse_at_length(report) -> None:
    raise ValueError("long " * 100_000)


def die(report) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def step_until_told(file: Path, report) -> None:
    """As a training does: a stop is noted, the step in hand is finished and saved."""
    with gentle_stop() as stop:
        file.write_text("begun")
        while not stop.requested:
            time.sleep(0.02)
        file.write_text("saved")
        raise KeyboardInterrupt


def work(pieces, *, processes=2, threads=1):
    told = []
    work_side_by_side(pieces, processes=processes, threads=threads, progress=told.append)
    return told


def wait_for(condition) -> None:
    ends = time.monotonic() + 40
    while not condition():
        assert time.monotonic() < ends
        time.sleep(0.05)


def alive(pid: int) -> bool:
    state = Path(f"/proc/{pid}/stat")
    try:
        return state.read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_every_piece_is_done_once_with_its_threads_and_progress_is_their_sum(tmp_path):
    told = work([partial(write_square, tmp_path, number) for number in range(5)])
    found = [(tmp_path / str(number)).read_text().split() for number in range(5)]
    assert [(int(square), int(threads)) for square, threads, _ in found] == [(number**2, 1) for number in range(5)]
    assert str(os.getpid()) not in {pid for _, _, pid in found}
    assert told == sorted(told)
    assert told[-1] == 0 + 1 + 2 + 3 + 4


def test_an_error_is_raised_here_and_the_other_process_saves_its_step(tmp_path):
    file = tmp_path / "file"
    with pytest.raises(ValueError, match=r"^mask is") as caught:
        work([partial(step_until_told, file), refuse])
    assert str(caught.value) == "mask is (4, 4), its image is (8, 8)"
    assert "refuse" in caught.value.__notes__[0]  # where it happened
    assert not file.exists() or file.read_text() == "saved"


def test_an_error_longer_than_a_pipe_comes_home():
    with pytest.raises(ValueError, match=r"^long long"):
        work([refuse_at_length], processes=1)


def test_a_killed_process_is_an_error_that_says_what_to_do(tmp_path):
    with pytest.raises(ChildProcessError, match=r"exit code -9.*same command continues"):
        work([die], processes=1)


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_what_ends_the_parent_ends_all(number, tmp_path):
    """SIGTERM, and so Ctrl-C, lets every step be saved; after SIGKILL nobody is left."""
    script = f"""
import sys
sys.path[:0] = {[str(Path(__file__).parent)]!r}
from functools import partial
from pathlib import Path
from fastsynth.side_by_side import work_side_by_side
from test_side_by_side import step_until_told
files = [Path({str(tmp_path)!r}) / name for name in "ab"]
try:
    work_side_by_side([partial(step_until_told, file) for file in files], processes=2, threads=1, progress=print)
except KeyboardInterrupt:
    sys.exit(130)
"""  # as people write scripts: nothing keeps it from running again in every process that imports it
    main = tmp_path / "main.py"
    main.write_text(script)
    parent = subprocess.Popen([sys.executable, main], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    files = [tmp_path / name for name in "ab"]
    wait_for(lambda: all(file.exists() for file in files))
    children = [int(pid) for pid in Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()]
    assert len(children) >= 2
    parent.send_signal(number)
    _, complaint = parent.communicate(timeout=40)
    wait_for(lambda: not any(alive(pid) for pid in children))
    if number == signal.SIGKILL:
        assert parent.returncode == -signal.SIGKILL
    else:
        assert parent.returncode == 130
        assert [file.read_text() for file in files] == ["saved", "saved"]
        assert complaint.count(b"stopping after this step") <= 1  # none where Ctrl-C is ignored


def test_shares_are_those_of_all_pieces_within_threads_and_memory(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    assert shares(6, bytes_each=1) == (6, 1)
    assert shares(3, bytes_each=1) == (3, 2)
    assert shares(100, bytes_each=1) == (8, 1)
    assert shares(100, bytes_each=1 << 60) == (1, 8)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert shares(6, bytes_each=1) == (1, 1)
