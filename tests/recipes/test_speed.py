"""generation.json says what a kept sample costs, over all sittings."""

import json
import time

import pytest

from fastsynth.recipes import speed
from fastsynth.recipes.speed import GENERATION, LOG, SpeedLog


def read(folder):
    return json.loads((folder / GENERATION).read_text())


def test_seconds_are_those_of_all_sittings_per_kept_sample(tmp_path):
    stored: list[int] = []
    for sitting in range(2):
        with SpeedLog.open(tmp_path, stored.copy, anew=sitting == 0) as log:
            time.sleep(0.2)
            stored += [1, 2]
            log.note(6)
    found = read(tmp_path)
    assert (found["made"], found["kept"]) == (12, 4)
    assert found["seconds"] >= 0.4
    assert found["seconds_per_image"] == pytest.approx(found["seconds"] / 4, abs=1.5e-4)  # both are rounded
    assert found["peak_memory_mb"] > 1


def test_a_kill_loses_no_line_that_was_written(tmp_path, monkeypatch):
    monkeypatch.setattr(speed, "EVERY", 0.0)
    killed = SpeedLog(tmp_path)  # never closed
    killed.note(3)
    killed.note(4)
    with (tmp_path / LOG).open("ab") as file:
        file.write(b'{"seconds": 1')  # the power went
    with SpeedLog.open(tmp_path, lambda: [1], anew=False) as log:
        log.note(2)
    assert (read(tmp_path)["made"], read(tmp_path)["kept"]) == (6, 1)


def test_an_interrupted_sitting_counts(tmp_path):
    def interrupted() -> None:
        with SpeedLog.open(tmp_path, lambda: [1], anew=True) as log:
            log.note(1)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert read(tmp_path)["made"] == 1


def test_loading_does_not_count(tmp_path):
    with SpeedLog.open(tmp_path, lambda: [1], anew=True) as log:
        before = log._since
        with log.paused():
            time.sleep(0.3)
        assert log._since >= before + 0.3


def test_an_empty_store_begins_anew_and_a_finished_one_changes_nothing(tmp_path):
    with SpeedLog.open(tmp_path, lambda: [1, 2], anew=True) as log:
        log.note(5)
    before = read(tmp_path)
    with SpeedLog.open(tmp_path, lambda: [1, 2], anew=False) as log:
        log.note(0)
    assert read(tmp_path) == before
    with SpeedLog.open(tmp_path, list, anew=True) as log:
        log.note(1)
    assert (read(tmp_path)["made"], read(tmp_path)["seconds_per_image"]) == (1, None)
