"""Truth measures on pictures of which the answer is known."""

import numpy as np
import pytest

from fastsynth.quality.gate_measures import change
from fastsynth.quality.truthfulness import leak_ratio, overlap, truth


def surface(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(110, 130, (64, 64, 3)).astype(np.uint8)


def box(left: int, top: int, side: int = 10) -> np.ndarray:
    inside = np.zeros((64, 64), bool)
    inside[top : top + side, left : left + side] = True
    return inside


class TestTruth:
    def test_a_strong_and_a_missing_instance_are_told_apart(self):
        source = surface()
        instances = (box(8, 8) * 1 + box(40, 40) * 7).astype(np.uint16)
        image = np.where(instances[..., None] == 1, 20, source).astype(np.uint8)
        found = truth(change(source, image, instances > 0), source, image, instances)
        assert found == {"alignment": 0.5, "leak": 0.0, "visible": {"1": 1.0, "7": 0.0}, "invisible": 1}

    def test_a_covered_instance_is_no_instance_of_the_picture(self):
        source = surface()
        instances = (box(8, 8) * 2).astype(np.uint16)
        image = np.where(instances[..., None] == 2, 250, source).astype(np.uint8)
        assert truth(change(source, image, instances > 0), source, image, instances)["visible"] == {"2": 1.0}

    def test_a_picture_that_changed_beside_its_mask_is_not_aligned(self):
        source, mask, drawn = surface(), box(8, 8), box(18, 8)
        image = np.where((mask | drawn)[..., None], 10, source).astype(np.uint8)
        found = truth(change(source, image, mask), source, image, mask.astype(np.uint16))
        assert found["alignment"] == pytest.approx(0.5, abs=0.05)
        assert found["invisible"] == 0
        step = source.astype(int) - 10
        # the mask and two pixels around it, 14 × 14, are no leak; of what was drawn beside it columns 20 to 27 are
        outside, inside = step[8:18, 20:28].sum() / (3 * (64 * 64 - 14 * 14)), step[8:18, 8:18].mean()
        assert found["leak"] == round(outside / inside, 4)

    def test_an_instance_that_shows_in_part_is_visible_in_part(self):
        source, mask = surface(), box(8, 8, 24)
        image = np.where(box(8, 8, 12)[..., None], 10, source).astype(np.uint8)
        share = truth(change(source, image, mask), source, image, mask.astype(np.uint16))["visible"]["1"]
        assert 0.25 <= share < 0.9  # what was drawn, and where means over its surroundings still show it
        assert share == round(share, 4)


class TestLeak:
    def test_it_is_the_mean_outside_two_pixels_over_the_mean_inside(self):
        before, region = np.full((64, 64, 1), 0.25), box(20, 20)
        after = np.where(region[..., None], 0.75, 0.3)
        assert leak_ratio(before, after, region) == pytest.approx(0.1)
        near = box(18, 18, 14)
        assert leak_ratio(before, np.where(near[..., None], 0.75, 0.25), region) == 0

    def test_a_region_that_fills_the_picture_leaks_nowhere(self):
        assert leak_ratio(np.zeros((8, 8, 1)), np.ones((8, 8, 1)), np.ones((8, 8), bool)) == 0


def test_overlap_is_intersection_over_union():
    assert overlap(box(0, 0), box(5, 0)) == pytest.approx(50 / 150)
    assert overlap(box(0, 0) & False, box(0, 0) & False) == 1
