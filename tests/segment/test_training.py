"""Laws of training a segmenter: it learns, it resumes exactly, it picks on validation images."""

import shutil

import cv2
import numpy as np
import pytest
import torch

from fastsynth.augment_config import AugmentConfig
from fastsynth.config import dump_config, parse_config
from segment.config import SegmentConfig
from segment.data import TrainingItem
from segment.losses import FORGIVEN, build_loss, dice_loss
from segment.models import load_segmenter
from segment.training import RESULT_FILE, is_finished, score_items, train_segmenter

SMALL = {
    "encoder_name": "tu-mobilenetv3_small_050",
    "encoder_weights": None,
    "decoder_channels": (16, 16, 8, 8, 8),
    "crop_size": 32,
    "batch_size": 4,
    "iterations": 6,
    "validate_every": 2,
    "augment": AugmentConfig(transforms=[{"name": "D4", "p": 1.0}, {"name": "GaussNoise", "p": 0.5}]),
}


@pytest.fixture
def items(tmp_path):
    """Three images with a bright square each, one without."""
    rng = np.random.default_rng(0)
    made = []
    for number in range(4):
        image = rng.integers(40, 90, (48, 64), dtype=np.uint8)
        mask = np.zeros_like(image)
        if number:
            y, x = rng.integers(2, 30, 2)
            mask[y : y + 12, x : x + 12] = 255
            image[mask > 0] += 150
        cv2.imwrite(str(tmp_path / f"{number}.png"), image)
        cv2.imwrite(str(tmp_path / f"{number}_mask.png"), mask)
        made.append(
            TrainingItem(tmp_path / f"{number}.png", tmp_path / f"{number}_mask.png" if number else None, "square")
            if number
            else TrainingItem(tmp_path / f"{number}.png", None, None)
        )
    return made


def config(**changes):
    return SegmentConfig(**(SMALL | changes))


def train(items, folder, *, seed=0, **changes):
    return train_segmenter(items, items[1:], config=config(**changes), folder=folder, seed=seed, on_iteration=print)


def weights(result):
    return torch.cat([tensor.flatten().float() for tensor in result.model.state_dict().values()])


class Killed(Exception):
    pass


def interrupt_at(iteration, items, folder, monkeypatch, **changes):
    """Run until just before `iteration`, as a kill would leave it."""
    from segment.data import CropDataset

    original = CropDataset.__getitem__

    def fetch(crops, number):
        if number >= iteration * crops.batch_size:
            raise Killed
        return original(crops, number)

    with monkeypatch.context() as patch:
        patch.setattr(CropDataset, "__getitem__", fetch)
        with pytest.raises(Killed):
            train(items, folder, **changes)


def test_three_images_with_a_bright_square_are_learnt(items, tmp_path):
    # 32 px crops leave one value per map at the lowest level: batch statistics of a MobileNet do not settle on that
    result = train(
        items,
        tmp_path / "run",
        encoder_name="tu-resnet10t",
        iterations=60,
        validate_every=30,
        learning_rate=2e-3,
        ema_decay=0.9,
    )
    assert result.val_miou > 0.8
    assert result.val_miou == result.history[-1]["val_miou"]  # without patience the last weights are kept
    assert result.history[-1]["loss"] < result.history[0]["loss"]


def test_an_interrupted_run_ends_with_the_weights_of_an_uninterrupted_one(items, tmp_path, monkeypatch):
    whole = train(items, tmp_path / "whole")
    interrupt_at(5, items, tmp_path / "parts", monkeypatch)
    assert {path.name for path in (tmp_path / "parts/checkpoints").iterdir()} == {"checkpoint-2", "checkpoint-4"}
    resumed = train(items, tmp_path / "parts")
    torch.testing.assert_close(weights(resumed), weights(whole), atol=1e-6, rtol=0)
    assert resumed.history == whole.history
    assert resumed.threshold == whole.threshold


def test_so_does_one_interrupted_between_two_searches_for_hard_negatives(items, tmp_path, monkeypatch):
    changes = {"iterations": 8, "validate_every": 3, "hard_negative_share": 1.0, "normal_share": 0.5}
    whole = train(items, tmp_path / "whole", **changes)
    interrupt_at(4, items, tmp_path / "parts", monkeypatch, **changes)  # searched at 2, saved at 3
    assert {path.name for path in (tmp_path / "parts/checkpoints").iterdir()} == {"checkpoint-3"}
    resumed = train(items, tmp_path / "parts", **changes)
    torch.testing.assert_close(weights(resumed), weights(whole), atol=1e-6, rtol=0)
    without = train(items, tmp_path / "without", **(changes | {"hard_negative_share": 0.0}))
    assert not torch.allclose(weights(without), weights(whole), atol=1e-4)


def test_a_finished_run_is_returned_and_not_trained_again(items, tmp_path):
    first = train(items, tmp_path / "run")
    written = (tmp_path / "run" / RESULT_FILE).stat().st_mtime_ns
    again = train(items, tmp_path / "run")
    assert torch.equal(weights(first), weights(again))
    assert (again.val_miou, again.threshold, again.history) == (first.val_miou, first.threshold, first.history)
    assert (tmp_path / "run" / RESULT_FILE).stat().st_mtime_ns == written
    assert not (tmp_path / "run/checkpoints").exists()


def test_the_saved_segmenter_scores_what_the_result_says(items, tmp_path):
    result = train(items, tmp_path / "run")
    saved = load_segmenter(tmp_path / "run/segmenter")
    scores = score_items(saved.model, items[1:])
    assert saved.threshold == result.threshold
    assert scores.miou(saved.threshold) == pytest.approx(result.val_miou)
    assert result.val_miou == max(entry["val_miou"] for entry in result.history)


def test_a_moved_data_set_is_the_same_run_and_other_settings_are_not(items, tmp_path):
    train(items, tmp_path / "run")
    moved = tmp_path / "elsewhere"
    shutil.copytree(tmp_path, moved, ignore=shutil.ignore_patterns("run", "elsewhere"))
    there = [TrainingItem(moved / i.image_path.name, i.mask_path and moved / i.mask_path.name, i.defect) for i in items]
    assert train(there, tmp_path / "run").iterations == 6
    assert is_finished(tmp_path / "run", there, there[1:], config=config(), seed=0)
    corrected = next(item.mask_path for item in there if item.mask_path)
    mask = cv2.imread(str(corrected), cv2.IMREAD_GRAYSCALE)
    cv2.imwrite(str(corrected), np.roll(mask, 3, axis=1))
    assert not is_finished(tmp_path / "run", there, there[1:], config=config(), seed=0)
    with pytest.raises(ValueError, match="other settings"):
        train(there, tmp_path / "run")
    for changes in ({"seed": 1}, {"learning_rate": 0.5}):
        with pytest.raises(ValueError, match="other settings"):
            train(items, tmp_path / "run", **changes)


def test_settings_that_make_no_segmenter_leave_the_folder_free(items, tmp_path):
    with pytest.raises(ValueError, match="Nonsense"):
        train(items, tmp_path / "run", arch="Nonsense")
    assert train(items, tmp_path / "run").iterations == 6


def test_training_leaves_the_global_random_states_alone(items, tmp_path):
    numpy_state = np.random.get_state()[1].copy()  # noqa: NPY002
    train(items, tmp_path / "run", iterations=1)
    assert np.array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002


def test_patience_stops_a_run_that_no_longer_improves(items, tmp_path):
    # a rate of next to nothing: the first validation stays the best
    result = train(items, tmp_path / "run", iterations=20, validate_every=1, learning_rate=1e-12, patience=2)
    assert result.iterations < 20


def test_dice_is_one_ratio_per_crop_with_a_foreground():
    foreground = torch.zeros(3, 1, 8, 8)
    foreground[0, 0, 0, 0] = 1  # one pixel, found
    foreground[1, 0, :4] = 1  # half the crop, missed
    logits = torch.full((3, 1, 8, 8), -50.0)
    logits[0, 0, 0, 0] = 50
    expected = (0 + (1 - 1 / (32 + 1))) / 2  # the third crop has no foreground and no alarm
    assert float(dice_loss(logits, foreground)) == pytest.approx(expected)


def test_false_alarms_on_an_empty_crop_cost_the_more_the_more_pixels_they_have():
    def loss_of(false_pixels):
        logits = torch.full((2, 1, 64, 64), -50.0)
        logits[0].view(-1)[:false_pixels] = 50
        return float(dice_loss(logits, torch.zeros(2, 1, 64, 64)))

    assert loss_of(0) == pytest.approx(0, abs=1e-6)
    assert loss_of(round(FORGIVEN * 64 * 64)) == pytest.approx(0.5 / 2, abs=0.005)  # the mean over two crops
    assert loss_of(64 * 64) == pytest.approx(1 / (1 + FORGIVEN) / 2)
    assert loss_of(20) < loss_of(60) < loss_of(400) < loss_of(4096)


def test_empty_crops_and_defect_crops_are_averaged_each_by_themselves():
    foreground = torch.zeros(4, 1, 8, 8)
    foreground[0, 0, :4] = 1
    logits = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    apart = dice_loss(logits[:1], foreground[:1]) + dice_loss(logits[1:], foreground[1:])
    assert torch.isclose(dice_loss(logits, foreground), apart)


@pytest.mark.parametrize("name", ["dice_ce", "dice_focal", "lovasz"])
def test_losses_fall_towards_the_truth_and_survive_an_empty_batch(name):
    loss = build_loss(name)
    foreground = torch.zeros(2, 1, 8, 8)
    foreground[:, :, 2:5, 2:5] = 1
    right, unsure, wrong = (scale * (2 * foreground - 1) for scale in (8, 0, -8))
    assert loss(right, foreground) < loss(unsure, foreground) < loss(wrong, foreground)
    logits = torch.zeros(2, 1, 8, 8, requires_grad=True)
    loss(logits, torch.zeros(2, 1, 8, 8)).backward()
    assert logits.grad.isfinite().all()
    assert (logits.grad > 0).all()


def test_config_round_trips_and_refuses_contradictions():
    import yaml

    again = parse_config(SegmentConfig, yaml.safe_load(dump_config(config())), source="x.yaml")
    assert again == config()
    for values, hint in [
        ({"zoom": [2, 1]}, "smallest, largest"),
        ({"overlap": 300}, "reaches the tile size"),
        ({"encoder_name": "resnet18"}, "encoder_weights offline"),
        ({"crop_size": 100}, "crop_size"),
        ({"augment": {"transform": []}}, "did you mean 'transforms'"),
    ]:
        with pytest.raises(ValueError, match=hint):
            parse_config(SegmentConfig, values, source="x.yaml")
