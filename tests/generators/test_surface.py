"""The fill of a hole against harmonic functions, and a surface's detail against the surface it was taken from."""

import numpy as np
import pytest
import torch

from generators.batches import CropSource
from generators.encoding import HOLE_CLASSES, surroundings
from generators.surface import FLOOR, LEVEL, LIMITS, smooth_fill, surface_detail, surface_gain, times


def grained(seed: int, *, size: tuple[int, int] = (40, 40)) -> torch.Tensor:
    """A mid-grey surface with grain, (1, 3, H, W)."""
    rng = torch.Generator().manual_seed(seed)
    return torch.randn((1, 1, *size), generator=rng).mul(0.1).expand(1, 3, *size).contiguous()


def square_hole(height: int = 40, width: int = 40) -> torch.Tensor:
    hole = torch.zeros(1, 1, height, width)
    hole[..., height // 4 : height // 2, width // 3 : 2 * width // 3] = 1
    return hole


@pytest.mark.parametrize("size", [(40, 40), (33, 57), (128, 128)])
def test_a_slope_goes_on_through_the_hole(size):
    """Planes are harmonic: a continuation as smooth as can be gives them back."""
    y, x = torch.meshgrid(torch.linspace(-0.5, 0.5, size[0]), torch.linspace(-0.4, 0.4, size[1]), indexing="ij")
    image = (y + x).expand(1, 3, *size)
    filled = smooth_fill(image, square_hole(*size))
    assert (filled - image).abs().max() < 0.05  # the hole spans a range of 0.4
    outside = square_hole(*size).expand_as(image) == 0
    torch.testing.assert_close(filled[outside], image[outside])


def test_a_fill_stays_within_what_lies_around_and_does_not_see_the_hole():
    image, hole = grained(0), square_hole()
    other = torch.where(hole > 0, 0.9, image)
    torch.testing.assert_close(surroundings(image, hole), surroundings(other, hole))
    filled, around = smooth_fill(image, hole), image[(hole == 0).expand_as(image)]
    assert around.min() <= filled.min() <= filled.max() <= around.max()


def test_a_hole_that_covers_all_gets_the_mean_and_none_changes_nothing():
    image = grained(1)
    filled = smooth_fill(image, torch.ones(1, 1, 40, 40))
    torch.testing.assert_close(filled, image.mean((2, 3), keepdim=True).expand_as(image))
    torch.testing.assert_close(smooth_fill(image, torch.zeros(1, 1, 40, 40)), image)


def test_the_detail_on_the_fill_is_the_surface_again():
    image, hole = grained(2), square_hole()
    detail = surface_detail(image, hole)
    assert (detail[(hole == 0).expand_as(detail)] == 1).all()
    torch.testing.assert_close(times(smooth_fill(image, hole), detail), image)


def test_the_grain_is_in_proportion_to_what_is_drawn():
    """Half as bright, half the grain: shade times reflectance, but for the floor."""
    detail = surface_detail(grained(3), square_hole())
    bright, dark = (times(torch.full((1, 3, 40, 40), v), detail)[0, 0, 10:20, 14:26] for v in (0.0, -0.8))
    assert dark.std() / bright.std() == pytest.approx((0.1 + FLOOR) / (0.5 + FLOOR), rel=0.01)


def test_the_edge_of_an_object_is_not_taken_for_grain():
    image, hole = torch.full((1, 3, 40, 40), -1.0), square_hole()
    image[..., 12:16, 16:20] = 1
    assert surface_detail(image, hole).max() == LIMITS[1]


@pytest.mark.parametrize("value", [-0.8, -0.2, 0.7])
def test_every_surface_comes_to_one_level_whatever_lies_in_the_hole(value):
    hole = square_hole()
    image = torch.where(hole > 0, 0.95, torch.full((1, 3, 40, 40), value))
    gain = surface_gain(image, hole)
    there = times(image, gain)
    torch.testing.assert_close(there[0, :, 0, 0], torch.full((3,), 2 * LEVEL - 1))
    torch.testing.assert_close(times(there, 1 / gain)[..., 0, 0], image[..., 0, 0])


def crops(*, normals: int) -> CropSource:
    """Two defects and some normals, each of one brightness with grain, under one square hole."""
    rng, count = np.random.default_rng(0), 2 + normals
    return CropSource(
        rng.integers(90, 160, (count, 3, 32, 32)).astype(np.uint8),
        np.repeat(square_hole(32, 32).numpy().astype(np.uint8), count, axis=0),
        np.ones((count, 1, 32, 32), np.uint8),
        np.array([2, 2] + [0] * normals),
        class_names=(*HOLE_CLASSES, "tile/dent"),
        normal_share=0.5,
    )


def test_normals_keep_their_detail_and_defects_get_that_of_a_normal_by_chance():
    source = crops(normals=6)
    batch = source.draw(24, shrink=1, rng=np.random.default_rng(1))
    own = surface_detail(batch.image, batch.hole)
    normal = (batch.labels < 2).all(dim=(1, 2))
    assert 0 < normal.sum() < 24
    torch.testing.assert_close(batch.detail[normal], own[normal])
    lent = torch.from_numpy(source.pictures[2:]).float() / 127.5 - 1
    known = surface_detail(lent, batch.hole[:1].expand(6, -1, -1, -1))
    nearest = [(known - detail).abs().amax((1, 2, 3)).min(0) for detail in batch.detail[~normal]]
    assert max(found.values for found in nearest) < 1e-6
    assert len({int(found.indices) for found in nearest}) > 1


def test_a_composite_shows_the_drawing_over_the_detail_in_the_hole_alone():
    batch = crops(normals=2).samples(2, shrink=1)
    drawn = batch.composite(torch.zeros(2, 3, 3, 32, 32))
    outside = (batch.hole == 0)[:, None].expand_as(drawn)
    torch.testing.assert_close(drawn[outside], batch.image[:, None].expand_as(drawn)[outside])
    torch.testing.assert_close(drawn[:, 1][~outside[:, 1]], times(torch.zeros(()), batch.detail)[~outside[:, 1]])


def test_without_normals_nothing_lies_under_the_drawing():
    batch = crops(normals=0).draw(4, shrink=1, rng=np.random.default_rng(2))
    drawn = torch.full((4, 3, 32, 32), 0.25)
    inside = (batch.hole > 0).expand_as(drawn)
    torch.testing.assert_close(batch.composite(drawn)[inside], drawn[inside])
