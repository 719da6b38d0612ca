"""Poisson blending. Oracles: exact solutions, and OpenCV's seamlessClone on 8-bit pictures."""

import cv2
import numpy as np
import pytest

from generators.poisson import poisson_blend


def disc(size: int = 48, radius: int = 14) -> np.ndarray:
    y, x = np.mgrid[:size, :size] - size / 2
    return x**2 + y**2 < radius**2


def smooth(seed: int, size: int = 48) -> np.ndarray:
    noise = np.random.default_rng(seed).uniform(-1, 1, (size, size, 3))
    return cv2.GaussianBlur(noise, (0, 0), 4) * 3


def test_a_source_that_is_the_background_lifted_gives_the_background():
    picture = smooth(0)
    np.testing.assert_allclose(poisson_blend(picture, picture + 0.7, disc(), mixed=False), picture, atol=1e-4)


def test_outside_the_foreground_nothing_changes():
    blended = poisson_blend(smooth(0), smooth(1), disc(), mixed=False)
    np.testing.assert_array_equal(blended[~disc()], smooth(0)[~disc()])


def test_inside_the_laplacian_is_the_source_s():
    background, source, inside = smooth(0), smooth(1), disc()
    blended = poisson_blend(background, source, inside, mixed=False)
    found, wanted = (cv2.Laplacian(image, cv2.CV_64F, ksize=1) for image in (blended, source))
    np.testing.assert_allclose(found[inside], wanted[inside], atol=1e-4)


def test_a_foreground_over_the_whole_picture_is_the_source():
    source = smooth(1, size=12)
    everything = np.ones((12, 12), bool)
    np.testing.assert_allclose(poisson_blend(smooth(0, size=12), source, everything, mixed=False), source, atol=1e-6)


def test_with_mixed_gradients_the_larger_one_wins():
    background = np.zeros((40, 40, 1))
    background[:, 18:20] = 1.0  # a line that a flat source does not wipe out
    blended = poisson_blend(background, np.full((40, 40, 1), 0.3), disc(40, 12), mixed=True)
    np.testing.assert_allclose(blended, background, atol=1e-4)


@pytest.mark.parametrize("seed", range(3))
def test_it_agrees_with_opencv(seed):
    background, source = (np.uint8(np.clip(smooth(s) * 40 + 120, 0, 255)) for s in (seed, seed + 10))
    inside = disc()
    centre = (24, 24)
    wanted = cv2.seamlessClone(source, background, np.uint8(inside) * 255, centre, cv2.NORMAL_CLONE)
    found = poisson_blend(background.astype(float), source.astype(float), inside, mixed=False)
    core = disc(radius=11)  # OpenCV erodes the mask and may shift the patch by a pixel
    assert np.abs(found - wanted)[core].mean() < 4
