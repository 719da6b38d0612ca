"""An annotation that is corrected after a verdict changes the verdict, or is refused; it is never passed over."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from fastsynth.config import load_config
from fastsynth.images import encode_png, read_mask
from fastsynth.recipes.judging import _lesson, is_outdated, planned_arms, train_arm
from fastsynth.run import Run
from fastsynth.run_config import RunConfig


@pytest.fixture
def run(whole_run, write_config, tmp_path):
    """The finished run with data of its own."""
    shutil.copytree(whole_run.data, tmp_path / "tile")
    shutil.copytree(whole_run.folder, tmp_path / "run")
    config = write_config(tmp_path, tmp_path / "tile")
    return Run(load_config(RunConfig, config, []))


def correct(run: Run, part: str) -> None:
    """Move the first mask of the part by 5 pixels."""
    mask: Path = run.path(run.records(part, normal=False)[0].mask)
    mask.write_bytes(encode_png(np.roll(read_mask(mask), 5, axis=0).astype(np.uint8) * 255))


def test_of_the_test_part_the_segmenter_is_judged_anew_and_not_trained(run):
    plan = planned_arms(run)[0]
    before = train_arm(run, plan, seed=0)
    correct(run, "test")
    assert not is_outdated(run, plan, seed=0)
    after = train_arm(run, plan, seed=0)
    assert after.scores.miou(after.threshold) != before.scores.miou(before.threshold)
    assert (after.train_minutes, after.peak_memory_mb) == (before.train_minutes, before.peak_memory_mb)
    assert np.array_equal(train_arm(run, plan, seed=0).scores._tp, after.scores._tp)


def test_of_the_training_part_the_old_segmenter_is_refused(run):
    plan = planned_arms(run)[0]
    correct(run, "train")
    assert is_outdated(run, plan, seed=0)
    with pytest.raises(ValueError, match="holds a run with other settings, images or seed"):
        train_arm(run, plan, seed=0)


def test_without_validation_defects_its_normal_images_are_learnt_from(run):
    assert not run.records("val", normal=False)
    lesson = _lesson(run, planned_arms(run)[0], seed=0)
    normal = [item for item in lesson.items if item.defect is None]
    assert len(normal) == len(run.records("train", normal=True)) + len(run.records("val", normal=True)) == 10
    assert lesson.val_items == lesson.items
