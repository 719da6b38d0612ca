"""Samples that a segmenter of real images does not find are left out of training, but never most of a type."""

import json

import numpy as np
import pytest

from fastsynth.config import load_config
from fastsynth.data.store import read_manifest
from fastsynth.recipes.judging import compare, planned_arms, train_arm
from fastsynth.recipes.presence import PRESENCE_FILE, presence, present_lines
from fastsynth.run import Run
from fastsynth.run_config import RunConfig


def kept(acc: dict[str, list[float]], *, least: float) -> dict[str, list[float]]:
    lines = [{"defect": defect, "id": number} for defect, values in acc.items() for number in range(len(values))]
    found = [{"iou": 0.0, "acc": value} for values in acc.values() for value in values]
    chosen = present_lines(lines, found, least=least)
    return {defect: [acc[defect][line["id"]] for line in chosen if line["defect"] == defect] for defect in acc}


def test_what_is_found_too_little_is_left_out():
    assert kept({"pit": [0.4, 0.5, 0.9, 0.0, 1.0, 0.6]}, least=0.5) == {"pit": [0.5, 0.9, 1.0, 0.6]}


def test_the_better_half_of_a_type_stays_however_little_is_found():
    found = kept({"pit": [0.0, 0.3, 0.1, 0.2], "crack": [0.9, 0.8, 0.1]}, least=0.5)
    assert sorted(found["pit"]) == [0.1, 0.2, 0.3]
    assert found["crack"] == [0.9, 0.8]
    assert kept({"pit": [0.0] * 7}, least=0.5) == {"pit": [0.0] * 7}


def test_nothing_is_left_out_at_zero():
    assert kept({"pit": [0.0, 0.2, 1.0]}, least=0.0) == {"pit": [0.0, 0.2, 1.0]}


@pytest.fixture
def run(copied_run):
    (copied_run.folder / PRESENCE_FILE).unlink()
    return Run(load_config(RunConfig, copied_run.config, [f"output={copied_run.folder}", "compare.min_presence=0.5"]))


def test_arms_learn_from_what_is_found_alone(run):
    _, mixed = compare(run)["rows"]
    lines = list(read_manifest(run.store_folder))
    found = [json.loads(line) for line in (run.folder / PRESENCE_FILE).read_text().splitlines()]
    assert [entry["id"] for entry in found] == sorted(line["id"] for line in lines)
    by_id = {entry["id"]: entry for entry in found}
    scores = [by_id[line["id"]] for line in lines]
    assert mixed["samples"] == len(present_lines(lines, scores, least=0.5))
    for defect in {line["defect"] for line in lines}:
        of_type = [by_id[line["id"]]["acc"] for line in lines if line["defect"] == defect]
        assert sum(acc >= min(0.5, np.median(of_type)) for acc in of_type) >= len(of_type) / 2


def test_what_was_found_once_is_read_and_not_looked_for_again(run, whole_run, monkeypatch):
    lines = list(read_manifest(run.store_folder))
    segmenter = whole_run.folder / "segment" / "real" / "seed-0" / "segmenter"
    (run.folder / PRESENCE_FILE).write_text('{"acc": 1.0, "id": "000000"}\n')  # of an earlier version
    first = presence(run, lines, segmenter)
    assert presence(run, lines[:3], None) == first[:3]
    monkeypatch.setattr("fastsynth.recipes.presence.score_items", None)
    assert presence(run, lines, segmenter) == first


def test_without_a_segmenter_of_the_real_arm_it_says_what_to_do(run):
    with pytest.raises(ValueError, match=r"min_presence is 0\.5, but no segmenter .* segment train --arm real"):
        train_arm(run, planned_arms(run)[1], seed=0)
