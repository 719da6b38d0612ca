import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastsynth.layouts.parts import RealPart, tight_box
from fastsynth.layouts.procedural import KINDS, blob, draw_procedural, kind_of, thinness_of, unevenness_of

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
    band = np.zeros((100, 100), np.uint8)
    cv2.line(band, (5, 5), (94, 94), 1, thickness=15)
    like = part_of(band > 0)
    drawn = [
        thinness_of(part_of(draw_procedural(kind, size, np.random.default_rng(seed), like=like))) for seed in range(30)
    ]
    assert 0.75 * thinness_of(like) <= np.median(drawn) <= 1.35 * thinness_of(like)


def lobed(waves, *, height=80, width=60):
    """A shape whose radius goes up and down by `waves` of itself, five times around."""
    y, x = np.mgrid[-1.4 : 1.4 : height * 1j, -1.4 : 1.4 : width * 1j]
    return np.hypot(x, y) <= 1 + waves * np.cos(5 * np.arctan2(y, x))


@pytest.mark.parametrize("size", [(30, 40), (80, 60), (600, 500)])
@pytest.mark.parametrize("waves", [0.05, 0.1, 0.2])
def test_blobs_are_as_uneven_as_the_real_one_they_are_like(size, waves):
    like = part_of(lobed(waves))
    drawn = [
        unevenness_of(part_of(draw_procedural("blob", size, np.random.default_rng(seed), like=like)))
        for seed in range(20)
    ]
    assert abs(np.median(drawn) - unevenness_of(like)) <= 0.02 + 0.15 * unevenness_of(like)


def test_unevenness_of_known_shapes():
    y, x = np.mgrid[-150:151, -150:151]
    assert unevenness_of(part_of((x / 120) ** 2 + (y / 70) ** 2 <= 1)) < 0.01
    # a square of side 2a has the second moments of a circle of radius 2a/√3
    square = (abs(x) <= 100) & (abs(y) <= 100)
    circle = np.hypot(x, y) <= 200 / np.sqrt(3)
    expected = 1 - (square & circle).sum() / (square | circle).sum()
    assert unevenness_of(part_of(square)) == pytest.approx(expected, abs=0.005)
    assert unevenness_of(part_of(cv2.resize(square.astype(np.uint8), (2000, 2000)) > 0)) == pytest.approx(
        expected, abs=0.01
    )
    assert unevenness_of(part_of(np.ones((1, 1), bool))) == pytest.approx(0, abs=1e-6)


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
