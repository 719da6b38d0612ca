"""Laws of the hard negatives: they are what the network calls a defect on normal images, and nothing else."""

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from segment import mining
from segment.data import TrainingItem
from segment.mining import find_hard_negatives, mining_iterations


class Bright(nn.Module):
    """Calls everything brighter than the middle grey a defect."""

    def __init__(self) -> None:
        super().__init__()
        self.steepness = nn.Parameter(torch.tensor(20.0))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.steepness * image[:, :1]


@pytest.fixture
def normals(tmp_path):
    """Dark pictures with 0, 3 and 100 bright pixels; and where they are, as (place, x, y)."""
    items, bright = [], set()
    rng = np.random.default_rng(0)
    for place, count in enumerate((0, 3, 100)):
        image = np.full((40, 70), 30, np.uint8)
        for pixel in rng.permutation(image.size)[:count]:
            y, x = divmod(int(pixel), 70)
            image[y, x] = 250
            bright.add((place, x, y))
        cv2.imwrite(str(tmp_path / f"{place}.png"), image)
        items.append(TrainingItem(tmp_path / f"{place}.png", None, None))
    return items, bright


def find(items, *, seed=(0,)):
    return find_hard_negatives(Bright(), items, tile=64, overlap=16, seed=seed)


def test_they_are_pixels_that_the_network_calls_a_defect_few_of_each_image(normals):
    items, bright = normals
    found = find(items)
    assert found.dtype == torch.int64
    rows = [tuple(row) for row in found.tolist()]
    assert len(rows) == len(set(rows)) == 3 + mining.POINTS
    assert set(rows) <= bright
    assert {row for row in rows if row[0] == 1} == {row for row in bright if row[0] == 1}


def test_the_seed_decides_which_and_nothing_else_does(normals):
    items, _ = normals
    assert torch.equal(find(items), find(items))
    assert not torch.equal(find(items), find(items, seed=(1,)))


def test_without_a_false_alarm_there_are_none(normals):
    assert find(normals[0][:1]).shape == (0, 3)


def test_no_more_than_so_many_images_are_looked_through(normals, monkeypatch):
    monkeypatch.setattr(mining, "IMAGES", 2)
    places = {frozenset(find(normals[0], seed=(seed,))[:, 0].tolist()) for seed in range(20)}
    assert places == {frozenset({1}), frozenset({2}), frozenset({1, 2})}


@pytest.mark.parametrize(("iterations", "wanted"), [(1000, [250, 500, 750]), (2, [0, 1, 2]), (1, [0, 1])])
def test_they_are_looked_for_three_times_in_a_run(iterations, wanted):
    assert mining_iterations(iterations) == wanted
