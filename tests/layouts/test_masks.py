from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastsynth.images import read_mask
from fastsynth.layouts.masks import crop_shape, draw_real, grow_shape, warp_coordinates
from fastsynth.layouts.parts import RealMask, split_parts, tight_box
from fastsynth.types import Warp

TILES = Path(__file__).resolve().parents[2] / "data" / "magnetic_tile" / "ground_truth"
UNCHANGED = {
    "scale_range": (1.0, 1.0), "rotation_range": (0.0, 0.0), "flip": False, "elastic": 0.0, "thickness_range": (0, 0),
}  # fmt: skip


def real(foreground, defect="dent"):
    return RealMask("ground_truth/dent/1_mask.png", defect, foreground)


def ellipse(shape=(90, 120), centre=(60, 40), axes=(25, 12)):
    canvas = np.zeros(shape, np.uint8)
    return cv2.ellipse(canvas, centre, axes, 30, 0, 360, 1, cv2.FILLED) > 0


def hairline(shape=(120, 160)):
    """A bent line one pixel wide."""
    canvas = np.zeros(shape, np.uint8)
    points = np.array([[20, 20], [60, 35], [70, 80], [130, 100]])
    return cv2.polylines(canvas, [points], False, 1, thickness=1, lineType=cv2.LINE_8) > 0


def pieces(mask):
    return cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)[0] - 1


def warped_source(foreground, warp, shape):
    """Oracle: the whole source mask, sampled with the coordinates that a renderer would use."""
    map_x, map_y = warp_coordinates(warp, shape)
    return cv2.remap(foreground.astype(np.float32), map_x, map_y, cv2.INTER_LINEAR) >= 0.5


draws = st.fixed_dictionaries(
    {
        "scale_range": st.sampled_from([(0.5, 0.5), (1.0, 1.0), (0.6, 1.6), (2.5, 2.5)]),
        "rotation_range": st.sampled_from([(0.0, 0.0), (-180.0, 180.0), (37.0, 37.0)]),
        "flip": st.booleans(),
        "elastic": st.floats(0, 0.1),
        "thickness_range": st.sampled_from([(0, 0), (-4, -4), (3, 3), (-1, 1)]),
    }
)


def test_an_unchanged_shape_is_the_real_one_pixel_for_pixel():
    for foreground in (ellipse(), hairline(), ellipse(centre=(0, 45))):
        (part,) = split_parts(real(foreground))
        shape = draw_real(part, rng=np.random.default_rng(0), **UNCHANGED)
        np.testing.assert_array_equal(shape.mask, part.foreground)
        assert shape.warp.matrix == (1, 0, part.left, 0, 1, part.top)
        assert shape.sides == part.sides
        assert shape.centre == pytest.approx(part.relative_centre)


@settings(max_examples=60, deadline=None)
@given(arguments=draws, seed=st.integers(0, 2**32))
def test_drawn_shapes_are_tight_and_repeat_with_the_seed(arguments, seed):
    (part,) = split_parts(real(ellipse()))
    first, second = (draw_real(part, rng=np.random.default_rng(seed), **arguments) for _ in range(2))
    height, width = first.mask.shape
    assert tight_box(first.mask) == (0, 0, width, height)
    np.testing.assert_array_equal(first.mask, second.mask)
    assert first.warp == second.warp
    assert first.warp.source == part.source


@settings(max_examples=60, deadline=None)
@given(arguments=draws, seed=st.integers(0, 2**32))
def test_remapping_the_source_gives_the_drawn_mask_up_to_one_pixel(arguments, seed):
    foreground = ellipse()
    (part,) = split_parts(real(foreground))
    shape = draw_real(part, rng=np.random.default_rng(seed), **{**arguments, "thickness_range": (0, 0)})
    wanted = warped_source(foreground, shape.warp, shape.mask.shape)
    difference = (wanted ^ shape.mask).astype(np.uint8)
    assert not cv2.erode(difference, np.ones((3, 3), np.uint8), borderValue=0).any()
    assert difference.mean() < 0.05


@settings(max_examples=80, deadline=None)
@given(arguments=draws, seed=st.integers(0, 2**32))
def test_a_crack_one_pixel_wide_stays_in_one_piece(arguments, seed):
    (part,) = split_parts(real(hairline()))
    shape = draw_real(part, rng=np.random.default_rng(seed), **arguments)
    assert pieces(shape.mask) == 1


def test_thickness_moves_the_border_by_that_many_pixels():
    (part,) = split_parts(real(ellipse(axes=(20, 20))))
    height, width = part.foreground.shape
    for thickness in (-4, -2, 0, 3):
        arguments = {**UNCHANGED, "thickness_range": (thickness, thickness)}
        shape = draw_real(part, rng=np.random.default_rng(0), **arguments)
        assert shape.mask.shape == (height + 2 * thickness, width + 2 * thickness)


def test_thin_shapes_are_not_thickened_beyond_a_share_of_their_half_width():
    """Or cracks would become wider on average, since they cannot become thinner."""
    band = np.zeros((40, 120), bool)
    band[15:20, 10:110] = True  # half width 2.5 pixels: its border moves by one pixel at most
    for foreground, wider in ((hairline(), 0), (band, 2)):
        (part,) = split_parts(real(foreground))
        shape = draw_real(part, rng=np.random.default_rng(0), **{**UNCHANGED, "thickness_range": (4, 4)})
        height, width = part.foreground.shape
        assert shape.mask.shape == (height + wider, width + wider)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32), left=st.integers(-40, 40), top=st.integers(-40, 40))
def test_a_window_of_the_coordinates_continues_the_patch(seed, left, top):
    (part,) = split_parts(real(ellipse()))
    warp = draw_real(part, rng=np.random.default_rng(seed), **{**UNCHANGED, "elastic": 0.08}).warp
    whole = warp_coordinates(warp, (160, 170), origin=(-50, -60))
    window = warp_coordinates(warp, (30, 40), origin=(left, top))
    for all_values, some in zip(whole, window, strict=True):
        np.testing.assert_allclose(all_values[top + 60 : top + 90, left + 50 : left + 90], some, atol=1e-3)


def test_coordinates_follow_the_formula():
    warp = Warp("m.png", (0.5, 0.1, 7.0, -0.2, 0.8, 3.0), seed=5, amplitude=6.0, wavelength=50.0)
    rng = np.random.default_rng(5)
    a, b, c, d, e, f = warp.matrix
    x, y = 11.0, 4.0
    u = np.array([a * x + b * y + c, d * x + e * y + f]) / np.sqrt(a * e - b * d)
    bend = np.zeros(2)
    for _ in range(3):
        k_angle, d_angle = rng.uniform(0, 2 * np.pi), rng.uniform(0, 2 * np.pi)
        k = 2 * np.pi / (warp.wavelength * rng.uniform(1, 2)) * np.array([np.cos(k_angle), np.sin(k_angle)])
        direction = np.array([np.cos(d_angle), np.sin(d_angle)])
        bend += warp.amplitude / 3 * direction * np.sin(k @ u + rng.uniform(0, 2 * np.pi))
    wanted = a * (x + bend[0]) + b * (y + bend[1]) + c, d * (x + bend[0]) + e * (y + bend[1]) + f
    map_x, map_y = warp_coordinates(warp, (1, 1), origin=(11, 4))
    assert (map_x[0, 0], map_y[0, 0]) == pytest.approx(wanted, abs=1e-4)


def test_cropping_a_shape_keeps_its_pixels_on_the_same_source():
    (part,) = split_parts(real(ellipse()))
    shape = draw_real(part, rng=np.random.default_rng(3), **{**UNCHANGED, "elastic": 0.1})
    height, width = shape.mask.shape
    cropped = crop_shape(shape, (5, 7, width, height))
    before, after = warp_coordinates(shape.warp, (height, width)), warp_coordinates(cropped.warp, cropped.mask.shape)
    h, w = cropped.mask.shape
    y, x = (
        np.argwhere((shape.mask[7:, 5:]).any(axis=1))[0, 0] + 7,
        np.argwhere(shape.mask[7:, 5:].any(axis=0))[0, 0] + 5,
    )
    np.testing.assert_array_equal(shape.mask[y : y + h, x : x + w], cropped.mask)
    for old, new in zip(before, after, strict=True):
        np.testing.assert_allclose(old[y : y + h, x : x + w], new, atol=1e-3)


@pytest.mark.parametrize("sides", [frozenset(), frozenset({"left"}), frozenset({"top", "right"})])
def test_growing_a_shape_keeps_its_pixels_on_the_same_source_and_its_sides_on_the_frame(sides):
    (part,) = split_parts(real(ellipse()))
    shape = draw_real(part, rng=np.random.default_rng(3), **{**UNCHANGED, "elastic": 0.1})
    grown = grow_shape(shape, 3, sides=sides)
    left, top = 3 * ("left" not in sides), 3 * ("top" not in sides)
    h, w = shape.mask.shape
    assert grown.mask.shape == (h + 6 - 3 * ("top" in sides), w + 6 - 3 * ("right" in sides) - 3 * ("left" in sides))
    assert grown.mask[top : top + h, left : left + w][shape.mask].all()
    before, after = warp_coordinates(shape.warp, (h, w)), warp_coordinates(grown.warp, grown.mask.shape)
    for old, new in zip(before, after, strict=True):
        np.testing.assert_allclose(new[top : top + h, left : left + w], old, atol=1e-3)


def test_a_stretched_shape_is_the_real_one_seen_through_its_warp():
    part_of = np.zeros((80, 60), bool)
    part_of[40:] = True
    part_of[40:44, :30] = False
    (part,) = split_parts(real(part_of))
    for arguments in (UNCHANGED, {**UNCHANGED, "rotation_range": (5.0, 5.0), "elastic": 0.04}):
        shape = draw_real(part, rng=np.random.default_rng(0), frame=(100, 90), **arguments)
        assert shape.mask.shape[1] >= 90
        wanted = warped_source(part_of, shape.warp, shape.mask.shape)
        difference = (wanted ^ shape.mask).astype(np.uint8)
        assert not cv2.erode(difference, np.ones((3, 3), np.uint8), borderValue=0).any()
    # a part that did not run through its image, or would have to be stretched too far
    (inner,) = split_parts(real(ellipse()))
    for of, frame in ((inner, (500, 500)), (part, (100, 150))):
        stretched, plain = (draw_real(of, rng=np.random.default_rng(0), frame=f, **UNCHANGED) for f in (frame, None))
        np.testing.assert_array_equal(stretched.mask, plain.mask)


def test_sides_and_centre_turn_with_the_part():
    (part,) = split_parts(real(ellipse(shape=(100, 100), centre=(0, 50))))
    assert part.sides == {"left"}
    quarter = draw_real(part, rng=np.random.default_rng(0), **{**UNCHANGED, "rotation_range": (90.0, 90.0)})
    assert quarter.sides == {"bottom"}  # counter-clockwise
    assert quarter.centre[1] > 0.8
    between = draw_real(part, rng=np.random.default_rng(0), **{**UNCHANGED, "rotation_range": (45.0, 45.0)})
    assert between.sides == frozenset()


def test_close_components_are_one_part_and_distant_ones_are_not():
    foreground = np.zeros((100, 200), bool)
    foreground[10:14, 10:14] = foreground[10:14, 17:21] = foreground[17:21, 12:16] = True  # pits, 3 px apart
    foreground[50:52, 20:60] = foreground[50:52, 66:110] = True  # a crack, broken over 6 px
    foreground[80:90, 150:170] = True
    parts = split_parts(real(foreground))
    assert sorted(int(part.foreground.sum()) for part in parts) == [48, 168, 200]
    together = np.zeros_like(foreground)
    for part in parts:
        h, w = part.foreground.shape
        together[part.top : part.top + h, part.left : part.left + w] |= part.foreground
    np.testing.assert_array_equal(together, foreground)
    assert split_parts(real(np.zeros((9, 9), bool))) == []


@pytest.mark.data
@pytest.mark.skipif(not TILES.is_dir(), reason="data/magnetic_tile is not here")
def test_real_cracks_keep_their_number_of_pieces():
    rng = np.random.default_rng(0)
    for path in sorted((TILES / "crack").iterdir())[::4]:
        for part in split_parts(RealMask(path.name, "crack", read_mask(path))):
            arguments = {"scale_range": (0.6, 1.4), "rotation_range": (-180.0, 180.0), "flip": True, "elastic": 0.05}
            shape = draw_real(part, rng=rng, thickness_range=(-2, 1), **arguments)
            assert pieces(shape.mask) <= pieces(part.foreground)


@pytest.mark.parametrize("scale", [0.147, 0.1, 0.05, 0.01])
def test_a_shape_shrunk_to_less_than_a_pixel_is_a_pixel(scale):
    square = np.zeros((40, 40), bool)
    square[15:25, 12:22] = True
    (part,) = split_parts(real(square))
    for seed in range(30):
        shape = draw_real(
            part,
            rng=np.random.default_rng(seed),
            **{**UNCHANGED, "scale_range": (scale, scale), "thickness_range": (-1, 1)},
        )
        assert 1 <= shape.mask.sum() <= 4
