"""Brightness around a shape as a rank: of known pictures, whatever their exposure, size and depth."""

import numpy as np
import pytest

from fastsynth.layouts.masks import draw_real
from fastsynth.layouts.parts import RealMask, split_parts, tight_box
from fastsynth.layouts.sampler import LayoutConfig, LayoutSampler
from fastsynth.layouts.surroundings import Brightness


def ramp(height=100, width=200, dtype=np.uint8, channels=1) -> np.ndarray:
    """From nearly black at the left to the dtype's white at the right."""
    levels = np.linspace(np.iinfo(dtype).max // 20, np.iinfo(dtype).max, width).astype(dtype)
    return np.broadcast_to(levels[None, :, None], (height, width, channels)).copy()


def plate(*, ends: int, height=100, width=200) -> np.ndarray:
    """Light above row `ends`, dark below, with a little noise."""
    image = np.random.default_rng(0).integers(0, 20, (height, width, 1)).astype(np.uint8)
    image[:ends] += 180
    return image


def disc(centre_x: float, *, height=100, width=200, radius=8.0) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    return np.hypot(x - centre_x, y - height / 2) <= radius


def around(image: np.ndarray, shape: np.ndarray, marked: np.ndarray) -> dict[str, float]:
    brightness = Brightness.of(image)
    return brightness.around(tight_box(shape), brightness.free_of(marked))


@pytest.mark.parametrize("share", [0.1, 0.25, 0.5, 0.85])
@pytest.mark.parametrize("image", [ramp(), ramp(channels=3), ramp(dtype=np.uint16), ramp() // 3 + 20, ramp(1000, 2000)])
def test_the_ranks_beside_a_shape_are_its_places_on_a_ramp(image, share):
    height, width = image.shape[:2]
    shape = disc(share * width, height=height, width=width, radius=0.04 * width)
    image[shape] = 0  # what the defect looks like does not matter
    found = around(image, shape, shape)
    wanted = {"left": share - 0.055, "top": share, "right": share + 0.055, "bottom": share}
    assert found == pytest.approx(wanted, abs=0.025)


def test_the_ranks_beside_a_box_are_those_of_a_shape_there():
    """What is asked of a place is what was measured at the real mask; rows and columns are told apart."""
    rng = np.random.default_rng(0)
    image = (ramp() // 2 + ramp(200, 100).transpose(1, 0, 2) // 3 + rng.integers(0, 8, (100, 200, 1))).astype(np.uint8)
    beside = Brightness.of(image).beside((10, 20))
    assert {side: ranks.shape for side, ranks in beside.items()} == dict.fromkeys(beside, (100, 200))
    for x, y in ((30, 20), (150, 30), (90, 75)):
        shape = np.zeros((100, 200), bool)
        shape[y - 5 : y + 5, x - 10 : x + 10] = True
        found = around(image, shape, shape)
        assert {side: ranks[y, x] for side, ranks in beside.items()} == pytest.approx(found, abs=0.03)


def test_what_else_is_marked_is_not_looked_at():
    image, shape = ramp(), disc(100.0)
    above = np.zeros_like(shape)
    above[30:40, 85:112] = True
    image[above] = 255
    assert around(image, shape, shape | above)["top"] == pytest.approx(0.5, abs=0.1)
    assert around(image, shape, shape)["top"] > 0.7


def test_sides_without_a_free_place_are_not_known():
    image, everything = ramp(40, 50), np.ones((40, 50), bool)
    assert around(image, everything, everything) == {}
    upper = everything.copy()
    upper[30:] = False
    assert around(image, upper, upper).keys() == {"bottom"}
    (part,) = split_parts(RealMask("m.png", "dent", everything, brightness=Brightness.of(image)))
    assert part.surroundings == {}


def test_a_flat_picture_is_of_middle_rank():
    image, shape = np.full((60, 60, 1), 7, np.uint8), disc(30.0, height=60, width=60)
    middle = pytest.approx(dict.fromkeys(("left", "top", "right", "bottom"), 0.5))
    assert around(image, shape, shape) == middle
    assert {side: ranks.mean() for side, ranks in Brightness.of(image).beside((5, 5)).items()} == middle


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


@pytest.mark.parametrize("procedural_share", [0.0, 1.0])
def test_what_lies_at_an_edge_goes_to_edges_that_are_dark_on_the_same_side(procedural_share):
    """A chip at the lower edge of a plate in front of something dark, for a picture whose plate ends elsewhere."""
    chip = np.zeros((100, 200), bool)
    chip[62:70, 90:110] = True
    masks = [RealMask("m.png", "chip", chip, brightness=Brightness.of(plate(ends=70)))]
    settings = LayoutConfig(
        procedural_share=procedural_share, source_position_share=0, flip=False, elastic=0, rotation_range=(0, 0)
    ).model_dump()
    sampler = LayoutSampler(masks, **settings)
    drawn = [
        sampler.draw(plate(ends=40), "n.png", "tile", "chip", np.random.default_rng(seed)).instances[0]
        for seed in range(20)
    ]
    lower_ends = np.array([one.bbox[3] for one in drawn])
    assert np.mean(np.abs(lower_ends - 40) <= 6) >= 0.9  # anywhere, about 13 % would be so near


def test_a_shape_upside_down_goes_to_edges_that_are_dark_above():
    chip = np.zeros((100, 200), bool)
    chip[62:70, 90:110] = True
    (part,) = split_parts(RealMask("m.png", "chip", chip, brightness=Brightness.of(plate(ends=70))))
    turned = draw_real(
        part,
        rng=np.random.default_rng(0),
        scale_range=(1, 1),
        rotation_range=(180, 180),
        flip=False,
        elastic=0,
        thickness_range=(0, 0),
    )
    opposite = {"left": "right", "top": "bottom", "right": "left", "bottom": "top"}
    assert turned.surroundings == {opposite[side]: rank for side, rank in part.surroundings.items()}
    assert turned.surroundings["top"] < 0.4 < turned.surroundings["bottom"]


@pytest.mark.parametrize("black", [0, 30, 56])
def test_ground_that_shows_nothing_squeezes_no_ranks(black):
    """A strip that fills the picture, and one beside black ground: the same places have the same ranks."""
    strip = ramp() // 2 + 80
    image = np.concatenate([np.full((100, black, 1), 3, np.uint8), strip], axis=1)
    shape = np.pad(disc(100.0), ((0, 0), (black, 0)))
    assert around(image, shape, shape) == pytest.approx(
        {"left": 0.445, "top": 0.5, "right": 0.555, "bottom": 0.5}, abs=0.03
    )


def test_a_black_picture_has_ranks():
    assert set(around(np.zeros((100, 200, 1), np.uint8), disc(100.0), disc(100.0)).values()) == {0.5}


def test_one_dead_pixel_blinds_no_ranks():
    image = ramp(dtype=np.uint16) // 32 + 800
    image[5, 5] = 65535
    found = around(image, disc(100.0), disc(100.0))
    assert found == pytest.approx({"left": 0.445, "top": 0.5, "right": 0.555, "bottom": 0.5}, abs=0.03)
