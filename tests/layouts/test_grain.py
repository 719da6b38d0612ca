"""Which surfaces run one way, by analytic pictures, and what follows for the turns of defects on them."""

import cv2
import numpy as np
import pytest

from fastsynth.data.demo import draw_normal
from fastsynth.layouts.grain import ALONG, ANYHOW, direction, rotation_range
from fastsynth.layouts.parts import RealMask
from fastsynth.layouts.sampler import LayoutConfig, LayoutSampler

NOWHERE = np.zeros((160, 200), bool)


def rough(seed: int, *, along: float, across: float) -> np.ndarray:
    """(160, 200, 1) uint8: noise smoothed over so many pixels along x and across."""
    noise = np.random.default_rng(seed).normal(size=NOWHERE.shape).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), sigmaX=along, sigmaY=across)
    return np.clip(128 + 30 * smooth / smooth.std(), 0, 255).astype(np.uint8)[..., None]


def turned(picture: np.ndarray, degrees: float) -> np.ndarray:
    matrix = cv2.getRotationMatrix2D((100, 80), degrees, 1.5)
    return cv2.warpAffine(picture, matrix, (200, 160), borderMode=cv2.BORDER_REFLECT)[..., None]


def grid() -> np.ndarray:
    y, x = np.mgrid[:160, :200]
    return np.where((x % 16 < 3) | (y % 16 < 3), 200, 60).astype(np.uint8)[..., None]


def test_stripes_run_one_way_and_say_which():
    level, upright = direction(rough(0, along=20, across=1), NOWHERE), direction(rough(0, along=1, across=20), NOWHERE)
    assert level[0].real < -0.8  # gradients point up and down: twice the angle is half a turn
    assert upright[0].real > 0.8
    assert rotation_range([level]) == rotation_range([upright]) == ALONG


def test_so_do_both_ways_of_a_grid_which_stripes_alone_would_miss():
    found = np.abs(direction(grid(), NOWHERE))
    assert found[0] < 0.1
    assert found[1] > 0.5
    assert rotation_range([direction(grid(), NOWHERE)]) == ALONG


@pytest.mark.parametrize("size", [1.0, 4.0])
def test_grain_of_no_direction_runs_no_way(size):
    found = [direction(rough(seed, along=size, across=size), NOWHERE) for seed in range(8)]
    assert np.abs(np.mean(found, axis=0)).max() < 0.1
    assert rotation_range(found) == ANYHOW


@pytest.mark.parametrize(("category", "least"), [("brushed_metal", 0.8), ("woven_fabric", 0.4)])
def test_the_products_of_the_demo_run_one_way(category, least):
    pictures = [draw_normal(category, size=(256, 256), rng=np.random.default_rng(seed)) for seed in range(4)]
    found = [direction(picture, np.zeros((256, 256), bool)) for picture in pictures]
    assert np.abs(np.mean(found, axis=0)).max() > least
    assert rotation_range(found) == ALONG


def test_parts_that_lie_anyhow_run_no_way_together():
    brushed = rough(0, along=20, across=1)
    found = [direction(turned(brushed, angle), NOWHERE) for angle in range(0, 180, 15)]
    assert all(rotation_range([one]) == ALONG for one in found)
    assert rotation_range(found) == ANYHOW


def test_the_defect_itself_does_not_count():
    scratched, foreground = rough(1, along=3, across=3), NOWHERE.copy()
    for y in range(20, 150, 20):
        foreground[y : y + 5] = True
    scratched[foreground] = 255
    assert np.abs(direction(scratched, NOWHERE)).max() > 0.6
    assert np.abs(direction(scratched, foreground)).max() < 0.3


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_a_picture_without_gradients_runs_no_way(kind):
    assert np.array_equal(direction(np.full((40, 50, 3), 7, kind), np.zeros((40, 50), bool)), [0, 0])
    assert rotation_range([]) == ANYHOW


def test_layouts_turn_shapes_by_what_the_pictures_of_their_masks_show():
    foreground = NOWHERE.copy()
    foreground[60:90, 80:120] = True

    def turns(image: np.ndarray, **changes: object) -> tuple[float, float]:
        mask = RealMask.of(image, foreground, source="1.png", defect="pit", group=None)
        return LayoutSampler([mask], **LayoutConfig().model_dump() | changes).rotation_range

    assert turns(rough(0, along=20, across=1)) == ALONG
    assert turns(rough(0, along=2, across=2)) == ANYHOW
    assert turns(rough(0, along=20, across=1), rotation_range=(-90.0, 90.0)) == (-90.0, 90.0)
