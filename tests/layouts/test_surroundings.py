"""Brightness around a shape as a rank: of known pictures, whatever their exposure, size and depth."""

import numpy as np
import pytest

from fastsynth.layouts.masks import RealMask, split_parts
from fastsynth.layouts.sampler import LayoutConfig, LayoutSampler
from fastsynth.layouts.surroundings import Brightness


def ramp(height=100, width=200, dtype=np.uint8, channels=1) -> np.ndarray:
    """From black at the left to the dtype's white at the right."""
    levels = np.linspace(0, np.iinfo(dtype).max, width).astype(dtype)
    return np.broadcast_to(levels[None, :, None], (height, width, channels)).copy()


def disc(centre_x: float, *, height=100, width=200, radius=8.0) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    return np.hypot(x - centre_x, y - height / 2) <= radius


@pytest.mark.parametrize("share", [0.1, 0.25, 0.5, 0.85])
@pytest.mark.parametrize("image", [ramp(), ramp(channels=3), ramp(dtype=np.uint16), ramp() // 3 + 20, ramp(1000, 2000)])
def test_the_rank_around_a_shape_is_its_place_on_a_ramp(image, share):
    height, width = image.shape[:2]
    shape = disc(share * width, height=height, width=width, radius=0.04 * width)
    image[shape] = 0  # what the defect looks like does not matter
    assert Brightness.of(image).around(shape, shape) == pytest.approx(share, abs=0.04)


def test_the_rank_below_a_box_is_that_of_its_middle():
    below = Brightness.of(ramp()).below((10, 20))
    assert below.shape == (100, 200)
    np.testing.assert_allclose(below[:, 20:180], np.tile(np.linspace(0, 1, 200)[20:180], (100, 1)), atol=0.01)


def test_what_else_is_marked_is_not_looked_at():
    image, shape = ramp(), disc(100.0)
    beside = disc(112.0, radius=20.0) & ~disc(100.0, radius=9.0)
    image[beside] = 255
    assert Brightness.of(image).around(shape, shape | beside) < 0.5
    assert Brightness.of(image).around(shape, shape) > 0.6


def test_nothing_is_known_where_everything_is_marked():
    everything = np.ones((40, 50), bool)
    assert Brightness.of(ramp(40, 50)).around(everything, everything) is None
    (part,) = split_parts(RealMask("m.png", "dent", everything, brightness=Brightness.of(ramp(40, 50))))
    assert part.surroundings is None


def test_a_flat_picture_is_of_middle_rank():
    image, shape = np.full((60, 60, 1), 7, np.uint8), disc(30.0, height=60, width=60)
    assert Brightness.of(image).around(shape, shape) == pytest.approx(0.5)
    assert Brightness.of(image).below((5, 5)) == pytest.approx(0.5)


@pytest.mark.parametrize("procedural_share", [0.0, 1.0])
@pytest.mark.parametrize("share", [0.2, 0.8])
def test_shapes_go_where_it_is_as_bright_as_around_their_real_masks(share, procedural_share):
    """On a ramp the other way round: a place alone would be on the wrong side."""
    shape = disc(200 * share)
    masks = [RealMask("m.png", "dent", shape, brightness=Brightness.of(ramp()))]
    settings = LayoutConfig(procedural_share=procedural_share, source_position_share=0).model_dump()
    background = ramp()[:, ::-1].copy()

    def centres(**changes: object) -> np.ndarray:
        sampler = LayoutSampler(masks, **{**settings, **changes})
        drawn = [
            sampler.draw(background, "n.png", "tile", "dent", np.random.default_rng(seed)).instances[0]
            for seed in range(40)
        ]
        return np.array([one.left + one.mask.shape[1] / 2 for one in drawn]) / 200

    like = centres(surroundings_spread=0.05)
    assert like.mean() == pytest.approx(1 - share, abs=0.04)
    assert like.std() == pytest.approx(0.05, abs=0.03)
    assert centres(surroundings_spread=None).std() > 0.15
