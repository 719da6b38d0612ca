"""Laws of the generated surfaces: random but repeatable, every kind with structure, blemishes local."""

import numpy as np
import pytest

from fastsynth.data.surfaces import BLEMISHES, FREE_PICTURES, KINDS, draw_surface, free_pictures

SHAPES = [(64, 64), (48, 96), (97, 33)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_a_field_has_its_shape_about_mean_0_and_deviation_1(kind, shape):
    field = kind(shape, np.random.default_rng(0))
    assert field.shape == shape
    assert field.dtype == np.float32
    assert np.isfinite(field).all()
    assert abs(field.mean()) < 0.5
    assert 0.5 < field.std() < 2.5


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_the_same_rng_gives_the_same_field_and_another_one_another(kind):
    first, second, other = (kind((64, 64), np.random.default_rng(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, second)
    assert np.abs(first - other).mean() > 0.1


def test_every_surface_is_a_picture_with_some_contrast():
    for seed in range(25):
        surface = draw_surface(SHAPES[seed % 3], rng=np.random.default_rng(seed))
        assert surface.shape == (*SHAPES[seed % 3], 3)
        assert surface.dtype == np.uint8
        assert surface.std() > 1
        assert ((surface > 0) & (surface < 255)).mean() > 0.5


def test_the_same_seed_gives_the_same_bytes_and_no_two_seeds_the_same():
    drawn = [draw_surface((64, 64), rng=np.random.default_rng(seed)).tobytes() for seed in (*range(10), *range(10))]
    assert drawn[:10] == drawn[10:]
    assert len(set(drawn)) == 10


def test_some_pictures_are_grey_and_some_are_coloured():
    coloured = [np.ptp(draw_surface((32, 32), rng=np.random.default_rng(s)), axis=2).any() for s in range(30)]
    assert 5 < sum(coloured) < 25


@pytest.mark.parametrize("blemish", dict.fromkeys(BLEMISHES), ids=lambda blemish: blemish.__name__)
def test_a_blemish_leaves_its_input_alone_and_is_seen(blemish):
    flat = np.full((96, 96), 128, np.float32)
    seen = []
    for seed in range(8):
        marked = blemish(flat, np.random.default_rng(seed))
        assert marked.shape == flat.shape
        assert (flat == 128).all()
        seen.append((np.abs(marked - 128) > 5).mean())
    assert max(seen) > 0
    assert np.median(seen) < 0.7


def test_the_free_pictures_are_there_in_colour():
    pictures = free_pictures()
    assert len(pictures) == len(FREE_PICTURES) == 12
    for picture in pictures:
        assert picture.dtype == np.uint8
        assert picture.shape[2] == 3
        assert min(picture.shape[:2]) >= 100
        assert picture.std() > 5
