"""Laws of the hard negatives: they are what the network calls a defect where none is annotated, and nothing else."""

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from fastsynth.augment import build_augmentation
from fastsynth.augment_config import AugmentConfig
from segment import mining
from segment.data import CropDataset, TrainingItem
from segment.mining import find_hard_negatives, mining_iterations


class Bright(nn.Module):
    """Calls everything brighter than the middle grey a defect."""

    def __init__(self) -> None:
        super().__init__()
        self.steepness = nn.Parameter(torch.tensor(20.0))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.steepness * image[:, :1]


def crops_of(folder, pictures, *others) -> CropDataset:
    """The pictures as normal images, a defect that fills its image, which every data set must have, and `others`."""
    items = [*others]
    for place, image in enumerate(pictures):
        cv2.imwrite(str(folder / f"{place}.png"), image)
        items.append(TrainingItem(folder / f"{place}.png", None, None))
    cv2.imwrite(str(folder / "mask.png"), np.full(pictures[0].shape, 255, np.uint8))
    items.append(TrainingItem(folder / "0.png", folder / "mask.png", "dent"))
    return CropDataset(
        items,
        augmentation=build_augmentation(AugmentConfig(transforms=[])),
        crop_size=32,
        batch_size=4,
        normal_share=0.5,
        synthetic_ratio=0.0,
        synthetic_batches=0,
        random_share=0.0,
        hard_negative_share=0.5,
        source_share=0.5,
        zoom=(1.0, 1.0),
        cache_bytes=10**7,
        seed=0,
    )


@pytest.fixture
def normals(tmp_path):
    """Dark pictures with 0, 3 and 100 bright pixels; and where they are, as (place, x, y)."""
    pictures, bright = [], set()
    rng = np.random.default_rng(0)
    for place, count in enumerate((0, 3, 100)):
        image = np.full((40, 70), 30, np.uint8)
        for pixel in rng.permutation(image.size)[:count]:
            y, x = divmod(int(pixel), 70)
            image[y, x] = 250
            bright.add((place, x, y))
        pictures.append(image)
    return crops_of(tmp_path, pictures), bright


def find(crops, *, seed=(0,), tile=64):
    return find_hard_negatives(Bright(), crops, tile=tile, overlap=16, seed=seed)


def test_they_are_pixels_that_the_network_calls_a_defect_few_of_each_image(normals):
    crops, bright = normals
    found = find(crops)
    assert found.dtype == torch.int64
    rows = [tuple(row) for row in found.tolist()]
    assert len(rows) == len(set(rows)) == 3 + mining.POINTS
    assert set(rows) <= bright
    assert {row for row in rows if row[0] == 1} == {row for row in bright if row[0] == 1}


def defect_image(folder, name, *, synthetic=False) -> TrainingItem:
    """A bright column at x = 5, and the column at x = 30, which is annotated as far as x = 32."""
    image, mask = np.full((40, 70), 30, np.uint8), np.zeros((40, 70), np.uint8)
    image[:, [5, 30, 30 + 2 + mining.MARGIN, 30 + 2 + mining.MARGIN + 1]] = 250
    mask[:, 30:33] = 255
    cv2.imwrite(str(folder / f"{name}.png"), image)
    cv2.imwrite(str(folder / f"{name}_mask.png"), mask)
    return TrainingItem(folder / f"{name}.png", folder / f"{name}_mask.png", "dent", synthetic=synthetic)


def test_beside_an_annotated_defect_they_are_false_alarms_too_but_not_along_its_border(tmp_path, monkeypatch):
    monkeypatch.setattr(mining, "POINTS", 10_000)
    drawn = [defect_image(tmp_path, "synthetic", synthetic=True), defect_image(tmp_path, "photographed")]
    crops = crops_of(tmp_path, [np.full((40, 70), 30, np.uint8)], *drawn)
    found = find(crops)
    assert {crops.photographed[place] for place in set(found[:, 0].tolist())} == {drawn[1]}
    assert set(found[:, 1].tolist()) == {5, 30 + 2 + mining.MARGIN + 1}
    assert len(found) == 2 * 40


def test_the_seed_decides_which_and_nothing_else_does(normals):
    crops, _ = normals
    assert torch.equal(find(crops), find(crops))
    assert not torch.equal(find(crops), find(crops, seed=(1,)))


def test_without_a_false_alarm_there_are_none(tmp_path):
    assert find(crops_of(tmp_path, [np.full((40, 70), 30, np.uint8)])).shape == (0, 3)


def test_no_more_than_so_many_pixels_are_looked_through(normals, monkeypatch):
    monkeypatch.setattr(mining, "PIXELS", 2 * 40 * 70)  # of four images
    places = {frozenset(find(normals[0], seed=(seed,))[:, 0].tolist()) for seed in range(30)}
    assert places == {frozenset(), frozenset({1}), frozenset({2}), frozenset({1, 2})}


def test_of_a_large_image_a_part_is_looked_through_and_another_one_next_time(tmp_path):
    image = np.full((300, 400), 30, np.uint8)
    image[::10, ::10] = 250
    crops = crops_of(tmp_path, [image])
    corners = set()
    for seed in range(10):
        _, x, y = find(crops, seed=(seed,), tile=32).T
        assert (image[y, x] == 250).all()
        assert int(x.max() - x.min()) < 64
        assert int(y.max() - y.min()) < 64
        corners.add((int(x.min()), int(y.min())))
    assert len(corners) > 5


@pytest.mark.parametrize(("iterations", "wanted"), [(1000, [250, 500, 750]), (2, [0, 1, 2]), (1, [0, 1])])
def test_they_are_looked_for_three_times_in_a_run(iterations, wanted):
    assert mining_iterations(iterations) == wanted
