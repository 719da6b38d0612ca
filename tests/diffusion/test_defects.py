"""Generated defects change their mask and nothing else, and every kind does what its name says."""

import cv2
import numpy as np
import pytest

from fastsynth.data.surfaces import draw_surface
from fastsynth.diffusion.defects import KINDS, draw_defect, draw_foreground

SIZE = (96, 120)


def disc() -> np.ndarray:
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    return (x - 60) ** 2 + (y - 48) ** 2 < 30**2


@pytest.fixture(scope="module")
def surface() -> np.ndarray:
    return draw_surface(SIZE, rng=np.random.default_rng(5))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(4))
def test_outside_nothing_changes_and_inside_something_does(kind, seed, surface):
    rng = np.random.default_rng(seed)
    foreground = draw_foreground(kind, SIZE, rng=rng)
    drawn = draw_defect(kind, surface, foreground, rng=rng)
    assert foreground.any()
    assert (drawn.dtype, drawn.shape) == (surface.dtype, surface.shape)
    np.testing.assert_array_equal(drawn[~foreground], surface[~foreground])
    assert (drawn != surface).any(axis=2)[foreground].mean() > 0.2


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_seed_draws_the_same(kind, surface):
    first, again, other = (draw_defect(kind, surface, disc(), rng=np.random.default_rng(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_a_shifted_piece_is_made_of_the_surface_s_own_colours():
    # two colours, nothing between: what is shifted can show no third, but where borders are blurred
    surface = np.full((*SIZE, 3), 50, np.uint8)
    surface[:, ::2] = (200, 100, 10)
    drawn = draw_defect("shifted", surface, disc(), rng=np.random.default_rng(0)).astype(float)
    along = (drawn - 50) @ np.array([150.0, 50.0, -40.0]) / (150**2 + 50**2 + 40**2)
    assert (along > -0.02).all()
    assert (along < 1.02).all()


def test_a_dent_keeps_the_mean_tone_and_a_stain_does_not_need_to():
    flat = np.full((*SIZE, 3), 128, np.uint8)
    for seed in range(6):
        drawn = draw_defect("dent", flat, disc(), rng=np.random.default_rng(seed)).astype(float)
        assert abs(drawn[disc()].mean() - 128) < 12
        assert np.ptp(cv2.GaussianBlur(drawn, (0, 0), 2)[disc()]) > 10


def test_masks_range_from_thin_to_large():
    rng = np.random.default_rng(0)
    areas = [draw_foreground("stain", (192, 192), rng=rng).sum() for _ in range(150)]
    assert min(areas) < 60
    assert max(areas) > 4000
