"""Growing and shrinking of masks, against scipy's distances and by their meaning."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from fastsynth.halo import grow, measure_halo, shrink

HALOS = st.integers(0, 4)


def random_mask(seed: int, *, share: float = 0.1) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return ndimage.binary_opening(rng.random((40, 33)) < 1 - share) | (rng.random((40, 33)) < 0.01)


@given(seed=st.integers(0, 1000), halo=HALOS)
@settings(max_examples=40, deadline=None)
def test_growing_takes_what_lies_within_the_halo(seed, halo):
    mask = random_mask(seed)
    assert np.array_equal(grow(mask, halo), ndimage.distance_transform_edt(~mask) <= halo)


@given(seed=st.integers(0, 1000), halo=HALOS)
@settings(max_examples=40, deadline=None)
def test_shrinking_what_has_grown_gives_back_all_of_it_and_little_more(seed, halo):
    mask = random_mask(seed, share=0.3)
    back = shrink(grow(mask, halo), halo)
    assert not (mask & ~back).any()
    assert np.array_equal(grow(back, halo), grow(mask, halo))


def test_a_disc_comes_back_as_it_was():
    y, x = np.mgrid[:50, :50]
    disc = (y - 25) ** 2 + (x - 24) ** 2 <= 81
    assert np.array_equal(shrink(grow(disc, 2), 2), disc)


@given(seed=st.integers(0, 1000), halo=HALOS)
@settings(max_examples=40, deadline=None)
def test_no_region_is_lost_however_thin(seed, halo):
    mask = random_mask(seed, share=0.4)
    labels, count = ndimage.label(mask, structure=np.ones((3, 3)))
    left = shrink(mask, halo)
    assert not (left & ~mask).any()
    assert set(np.unique(labels[left])) == set(range(1, count + 1))


def test_the_frame_is_no_border():
    mask = np.zeros((20, 20), bool)
    mask[:8, 5:15] = True
    left = shrink(mask, 2)
    assert left[0].sum() == 6
    assert left[:, 10].sum() == 6


@pytest.mark.parametrize("change", [grow, shrink])
def test_an_empty_mask_stays_empty(change):
    assert not change(np.zeros((5, 7), bool), 2).any()


def blurred_disc(*, sigma: float, radius: int = 9, contrast: float = 60.0, noise: float = 2.0, seed: int = 0):
    """A dark disc seen through a blur, and its mask."""
    y, x = np.mgrid[:64, :64]
    mask = (y - 32) ** 2 + (x - 31) ** 2 <= radius**2
    disc = ndimage.gaussian_filter(mask.astype(float), sigma) if sigma else mask.astype(float)
    surface = np.random.default_rng(seed).normal(150, noise, mask.shape)
    return (surface - contrast * disc).clip(0, 255).round().astype(np.uint8)[..., None], mask


@pytest.mark.parametrize(("sigma", "halo"), [(0, 0), (0.8, 1), (1.5, 2), (2.2, 3)])
def test_the_halo_is_as_wide_as_the_blur(sigma, halo):
    """Of a blurred straight border 0.1 is left where the normal distribution has 0.9: at 1.28 sigma."""
    assert measure_halo([("pit", *blurred_disc(sigma=sigma, seed=seed)) for seed in range(5)]) == halo


def test_bit_depth_does_not_matter():
    image, mask = blurred_disc(sigma=1.5)
    assert measure_halo([("pit", image.astype(np.uint16) * 257, mask)]) == measure_halo([("pit", image, mask)])


def test_defects_that_are_hardly_seen_have_no_say():
    faint = [("stain", *blurred_disc(sigma=3, contrast=0.5, noise=4, seed=seed)) for seed in range(5)]
    sharp = [("pit", *blurred_disc(sigma=0, seed=seed)) for seed in range(5)]
    assert measure_halo([*faint, *sharp]) == 0
    assert measure_halo(faint) == 0


def test_without_surroundings_there_is_nothing_to_measure():
    image, mask = blurred_disc(sigma=1.5)
    assert measure_halo([("pit", image[24:40, 24:40], mask[24:40, 24:40])]) == 0
    assert measure_halo([("pit", np.full_like(image, 7), mask)]) == 0
    assert measure_halo([]) == 0
