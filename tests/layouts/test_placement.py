import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastsynth.layouts.placement import SEARCH_SIDE, object_region, place


def disc(shape, centre, radius):
    return cv2.circle(np.zeros(shape, np.uint8), centre, radius, 1, cv2.FILLED) > 0


def legal_positions(shape, region, occupied, min_inside):
    """Oracle: every position tried one by one."""
    h, w = shape.shape
    legal = set()
    for top in range(region.shape[0] - h + 1):
        for left in range(region.shape[1] - w + 1):
            window = slice(top, top + h), slice(left, left + w)
            inside = (region[window] & shape).sum() >= min_inside * shape.sum()
            if inside and not (occupied[window] & shape).any():
                legal.add((left, top))
    return legal


def masks(low, high):
    return st.tuples(st.integers(low, high), st.integers(low, high), st.integers(0, 2**32), st.floats(0.1, 1)).map(
        lambda v: np.random.default_rng(v[2]).random(v[:2]) < v[3]
    )


@settings(max_examples=80, deadline=None)
@given(
    shape=masks(1, 6).filter(np.any),
    region=masks(4, 14),
    min_inside=st.sampled_from([0.3, 0.5, 0.95, 1.0]),
    crowded=st.booleans(),
    seed=st.integers(0, 99),
)
def test_a_position_is_found_exactly_when_one_exists(shape, region, min_inside, crowded, seed):
    rng = np.random.default_rng(seed)
    occupied = rng.random(region.shape) < (0.15 if crowded else 0)
    legal = legal_positions(shape, region, occupied, min_inside)
    found = place(shape, region, rng=rng, margin=0, min_inside=min_inside, occupied=occupied)
    assert found in legal if legal else found is None


def test_all_legal_positions_are_drawn_evenly():
    region = np.zeros((6, 8), bool)
    region[1:4, 2:7] = True
    rng = np.random.default_rng(0)
    drawn = [place(np.ones((2, 3), bool), region, rng=rng, margin=0, min_inside=1.0) for _ in range(1200)]
    counts = {position: drawn.count(position) for position in set(drawn)}
    assert set(counts) == {(x, y) for x in (2, 3, 4) for y in (1, 2)}
    assert min(counts.values()) > 140


def test_margin_keeps_the_distance_to_region_and_frame():
    shape = np.ones((2, 2), bool)
    for seed in range(20):
        left, top = place(shape, np.ones((20, 30), bool), rng=np.random.default_rng(seed), margin=5, min_inside=1.0)
        assert 5 <= left <= 23
        assert 5 <= top <= 13
    assert place(shape, np.ones((11, 30), bool), rng=np.random.default_rng(0), margin=5, min_inside=1.0) is None


def test_near_without_jitter_takes_the_closest_position():
    region = np.ones((41, 61), bool)
    shape = np.ones((3, 3), bool)
    draw = {"rng": np.random.default_rng(0), "margin": 0, "min_inside": 1.0}
    assert place(shape, region, near=(0.5, 0.5), **draw) == (29, 19)
    assert place(shape, region, near=(0.0, 1.0), **draw) == (0, 38)


@pytest.mark.parametrize("size", [(50, 80), (333, 701)])
def test_sides_are_touched(size):
    region, shape = np.ones(size, bool), np.ones((7, 9), bool)
    for sides in ({"left"}, {"right"}, {"top", "right"}, {"bottom", "left"}):
        for seed in range(5):
            left, top = place(
                shape, region, rng=np.random.default_rng(seed), margin=0, min_inside=1.0, near=(0.4, 0.4), jitter=0.1,
                sides=frozenset(sides),
            )  # fmt: skip
            touched = {"left": left == 0, "top": top == 0}
            touched |= {"right": left == size[1] - 9, "bottom": top == size[0] - 7}
            assert all(touched[side] for side in sides)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32), length=st.integers(5, 300))
def test_the_reduced_search_keeps_the_promise_at_full_resolution(seed, length):
    rng = np.random.default_rng(seed)
    region = disc((900, 1100), (500, 400), 380)
    assert max(region.shape) > SEARCH_SIDE
    shape = np.zeros((length, length), bool)
    shape[np.arange(length), np.arange(length)] = True
    occupied = disc(region.shape, (500, 400), 60)
    left, top = place(shape, region, rng=rng, margin=3, min_inside=0.95, occupied=occupied)
    window = slice(top, top + length), slice(left, left + length)
    assert (region[window] & shape).sum() >= 0.95 * length
    assert not (occupied[window] & shape).any()


def test_what_is_larger_than_the_image_has_no_place():
    region = np.ones((10, 10), bool)
    assert place(np.ones((11, 2), bool), region, rng=np.random.default_rng(0), margin=0, min_inside=0.1) is None


@pytest.mark.parametrize("dark_object", [True, False])
@pytest.mark.parametrize(("channels", "dtype"), [(1, np.uint8), (3, np.uint8), (1, np.uint16)])
def test_an_object_on_a_plain_background_is_found(dark_object, channels, dtype):
    truth = disc((300, 400), (210, 140), 90)
    grey = np.where(truth != dark_object, 190, 40) + np.random.default_rng(0).normal(0, 6, truth.shape)
    grey[130:145, 200:215] = 40 if not dark_object else 190  # a hole belongs to the object
    image = np.repeat(grey.clip(0, 255)[..., None], channels, axis=2) * (np.iinfo(dtype).max // 255)
    found = object_region(image.astype(dtype))
    assert (found & truth).sum() / (found | truth).sum() > 0.95


@pytest.mark.parametrize("other_half", [(235, 170, 60), (205, 205, 205), (90, 90, 90)])
def test_an_object_of_two_tones_is_one_object(other_half):
    """Black and bright orange on white: in grey the orange is nearer to the ground than to the black."""
    truth = disc((300, 400), (200, 150), 100)
    picture = np.full((300, 400, 3), (150, 150, 150) if other_half == (205, 205, 205) else (235, 235, 235), float)
    picture[truth] = (35, 30, 30)
    picture[truth & (np.arange(400) >= 200)] = other_half
    picture += np.random.default_rng(0).normal(0, 3, picture.shape)
    found = object_region(picture.clip(0, 255).astype(np.uint8))
    assert (found & truth).sum() / (found | truth).sum() > 0.95


def test_a_texture_that_fills_the_frame_is_all_object():
    rng = np.random.default_rng(0)
    noise = rng.normal(120, 25, (200, 300, 1)).clip(0, 255).astype(np.uint8)
    stripes = np.tile(np.where(np.arange(300) // 20 % 2, 60, 180).astype(np.uint8), (200, 1))[..., None]
    spots = np.full((200, 300, 1), 150, np.uint8)
    spots[50:60, 40:60] = spots[120:130, 200:210] = 20
    for image in (noise, stripes, spots, np.full((60, 80, 3), 9, np.uint8)):
        assert object_region(image).all()
        assert object_region(image).shape == image.shape[:2]


@pytest.mark.parametrize("size", [(1, 1), (2, 2), (3, 6), (1, 20)])
@pytest.mark.parametrize("length", [2048, 8192, 16000])
def test_specks_find_places_on_large_pictures(size, length):
    """In the search a block of 32 or 63 pixels a side holds one thousandth of a speck: it must not round to nothing."""
    everywhere = np.ones((300, length), bool)
    found = [
        place(np.ones(size, bool), everywhere, rng=np.random.default_rng(seed), margin=0, min_inside=0.95)
        for seed in range(5)
    ]
    assert None not in found
