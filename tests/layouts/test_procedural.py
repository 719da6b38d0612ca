import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastsynth.layouts.masks import RealPart, tight_box
from fastsynth.layouts.procedural import KINDS, blob, draw_procedural, kind_of, thinness_of

sizes = st.tuples(st.integers(1, 120), st.integers(1, 120))


def pieces(mask):
    return cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)[0] - 1


def part_of(mask):
    left, top, right, bottom = tight_box(mask)
    return RealPart("m.png", "dent", mask[top:bottom, left:right], left, top, mask.shape)


@settings(max_examples=100, deadline=None)
@given(kind=st.sampled_from(KINDS), size=sizes, seed=st.integers(0, 2**32))
def test_every_shape_is_tight_bool_and_repeats_with_the_seed(kind, size, seed):
    first, second = (draw_procedural(kind, size, np.random.default_rng(seed)) for _ in range(2))
    assert first.dtype == bool
    assert tight_box(first) == (0, 0, first.shape[1], first.shape[0])
    np.testing.assert_array_equal(first, second)


@settings(max_examples=60, deadline=None)
@given(kind=st.sampled_from(["blob", "crack", "scratch"]), size=sizes, seed=st.integers(0, 2**32))
def test_blobs_and_lines_are_one_piece(kind, size, seed):
    assert pieces(draw_procedural(kind, size, np.random.default_rng(seed))) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_shapes_are_about_as_large_as_asked(kind):
    shapes = np.array([draw_procedural(kind, (60, 40), np.random.default_rng(seed)).shape for seed in range(30)])
    np.testing.assert_allclose(np.median(shapes, axis=0), (60, 40), rtol=0.35)
    assert shapes.max() < 150


def test_lines_are_thin():
    for kind, widest in (("crack", 4), ("scratch", 3)):
        for seed in range(20):
            mask = draw_procedural(kind, (100, 60), np.random.default_rng(seed))
            inner = cv2.distanceTransform(np.pad(mask, 1).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
            assert 2 * inner.max() <= 2 * widest  # twice: branches meet


@pytest.mark.parametrize("kind", ["crack", "scratch"])
@pytest.mark.parametrize("size", [(20, 25), (70, 60), (140, 90)])
def test_lines_are_as_thin_as_the_real_one_they_are_like(kind, size):
    wanted = 0.12
    drawn = [
        thinness_of(part_of(draw_procedural(kind, size, np.random.default_rng(seed), thinness=wanted)))
        for seed in range(30)
    ]
    assert 0.75 * wanted <= np.median(drawn) <= 1.35 * wanted


@pytest.mark.parametrize("kind", ["blob", "scratch"])
def test_a_shape_is_recognised_as_its_own_kind(kind):
    parts = [part_of(np.pad(draw_procedural(kind, (90, 60), np.random.default_rng(seed)), 3)) for seed in range(20)]
    assert sum(kind_of(part) == kind for part in parts) >= 16


def test_scattered_discs_are_pits_and_a_broad_band_is_a_blob():
    canvas = np.zeros((60, 60), np.uint8)
    for centre in ((10, 12), (22, 15), (15, 28), (33, 30)):
        cv2.circle(canvas, centre, 3, 1, cv2.FILLED)
    assert kind_of(part_of(canvas > 0)) == "pits"
    band = np.zeros((100, 500), bool)
    band[20:80, 10:490] = True
    assert kind_of(part_of(band)) == "blob"


def test_blobs_differ_from_seed_to_seed():
    assert len({blob((40, 40), np.random.default_rng(seed)).tobytes() for seed in range(10)}) == 10


@pytest.mark.parametrize("size", [(1, 1778), (3497, 1), (2, 900)])
def test_a_blob_as_thin_as_a_hair_is_still_there(size):
    shape = blob(size, np.random.default_rng(0)).shape
    assert max(shape) > 0.5 * max(size)
