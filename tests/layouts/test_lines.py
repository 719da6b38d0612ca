"""Laws of centre lines: known curves are measured right, a line lies along itself, a real crack follows a drawn one."""

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastsynth.layouts.crop import crop_around
from fastsynth.layouts.exemplar import Exemplar, ExemplarBank, instance_mask
from fastsynth.layouts.lines import CentreLine, laid_along, mismatch
from fastsynth.layouts.parts import tight_box
from fastsynth.layouts.procedural import crack
from fastsynth.types import Instance


def curve(points: np.ndarray, *, width: int, shape=(120, 240)) -> np.ndarray:
    """(H, W) bool, a polyline through points (n, 2)."""
    canvas = np.zeros(shape, np.uint8)
    cv2.polylines(canvas, [np.rint(points * 16).astype(np.int32)], False, 1, thickness=width, shift=4)
    return canvas > 0


def bar(x0=20, x1=220, y=60, *, width=5) -> np.ndarray:
    mask = np.zeros((120, 240), bool)
    mask[y - width // 2 : y + width // 2 + 1, x0 : x1 + 1] = True
    return mask


def comb(teeth: int) -> np.ndarray:
    """A bar with short teeth."""
    mask = np.pad(bar(20, 20 + 5 * teeth, width=1), ((0, 0), (0, 100)))
    mask[61:68, 22 : 22 + 5 * teeth : 5] = True
    return mask


def wave(amplitude=15.0) -> np.ndarray:
    """Points (n, 2) of one period of a sine, 200 pixels long."""
    x = np.linspace(0, 200, 400)
    return np.column_stack([x + 20, 60 + amplitude * np.sin(2 * np.pi * x / 200)])


def line_of(mask: np.ndarray) -> CentreLine:
    line = CentreLine.of(mask)
    assert line is not None
    return line


class TestMeasures:
    def test_a_bar_has_the_length_and_the_width_it_was_drawn_with(self):
        line = line_of(bar(width=5))
        assert line.length == pytest.approx(200, abs=6)
        assert line.half_width == pytest.approx(2.5, abs=0.6)
        assert abs(line.chord[1]) < 0.5

    def test_a_sine_is_as_long_as_its_arc(self):
        points = wave()
        arc = np.hypot(*np.diff(points, axis=0).T).sum()
        assert line_of(curve(points, width=5)).length == pytest.approx(arc, rel=0.06)

    def test_pixels_are_located_along_and_beside_a_bar(self):
        line = line_of(bar())
        start = line.points[0]
        pixels = np.array([[50.0, 60.0], [90.0, 63.0], [130.0, 57.0]])
        along, beside, _ = line.locate(pixels)
        sign = np.sign(line.chord[0])
        np.testing.assert_allclose(along, sign * (pixels[:, 0] - start[0]), atol=0.6)
        np.testing.assert_allclose(beside, sign * (pixels[:, 1] - start[1]), atol=0.6)

    def test_an_origin_moves_the_points_and_nothing_else(self):
        here, there = line_of(bar()), CentreLine.of(bar(), origin=(7, -3))
        np.testing.assert_allclose(there.points - here.points, np.broadcast_to([7, -3], here.points.shape))
        np.testing.assert_array_equal(there.along, here.along)

    def test_a_branch_goes_on_from_where_it_leaves_the_trunk(self):
        fork = bar()
        fork[60:101, 118:123] = True
        line = line_of(fork)
        along, _, _ = line.locate(np.array([[120.0, 60.0], [120.0, 90.0]]))
        assert line.trunk < len(line.points)
        assert along[1] - along[0] == pytest.approx(30, abs=4)

    def test_the_largest_piece_counts(self):
        assert line_of(bar() | bar(20, 28, 20)).length == pytest.approx(200, abs=6)


class TestWhatIsNoLine:
    @pytest.mark.parametrize(
        "mask",
        [
            np.ones((1, 1), bool),
            np.ones((2, 1), bool),
            np.ones((30, 40), bool),
            cv2.ellipse(np.zeros((60, 60), np.uint8), (30, 30), (20, 12), 0, 0, 360, 1, cv2.FILLED) > 0,
            bar(width=25),
            bar(20, 30, width=5),
            np.random.default_rng(0).random((200, 200)) < 0.4,
            (np.indices((200, 200)) % 20 < 2).any(axis=0),
            comb(40),
            bar() | bar(20, 120, 20),
        ],
        ids=["pixel", "two pixels", "box", "ellipse", "wide bar", "short bar", "noise", "net", "comb", "two lines"],
    )
    def test_it_has_none(self, mask):
        assert CentreLine.of(mask) is None

    @pytest.mark.parametrize("length", [200, 1500])
    def test_a_ragged_outline_has_no_branches(self, length):
        """Half a pixel of an annotator's jitter on either side, column by column."""
        rng = np.random.default_rng(0)
        low, high = (np.rint(20 + side * 4 + rng.normal(0, 0.7, length)) for side in (-1, 1))
        rows = np.arange(40)[:, None]
        line = line_of((rows >= low) & (rows <= high))
        assert line.length == pytest.approx(length, rel=0.05)
        assert len(line.points) - line.trunk < 0.05 * length

    def test_branches_make_a_line_no_wider(self):
        fork = np.zeros((200, 240), bool)
        fork[96:104, 10:230] = True
        for x in range(30, 220, 40):
            fork[20:180, x : x + 8] = True
        assert CentreLine.of(fork) is not None

    def test_a_comb_of_few_teeth_is_a_line_with_branches(self):
        assert line_of(comb(20)).trunk < len(line_of(comb(20)).points)

    def test_a_ring_has_one_that_covers_it(self):
        ring = cv2.circle(np.zeros((120, 120), np.uint8), (60, 60), 45, 1, thickness=3) > 0
        y, x = np.nonzero(ring)
        _, beside, _ = line_of(ring).locate(np.column_stack([x, y]).astype(float))
        assert np.abs(beside).max() < 5


class TestLaying:
    @pytest.mark.parametrize("mask", [bar(), curve(wave(), width=5)], ids=["bar", "wave"])
    def test_a_line_lies_along_itself(self, mask):
        line = line_of(mask)
        y, x = np.nonzero(mask)
        pixels = np.column_stack([x, y]).astype(float)
        np.testing.assert_allclose(laid_along(line, line, pixels), pixels, atol=1.0)
        assert mismatch(line, line) == pytest.approx(0, abs=1e-6)

    def test_the_direction_that_turns_less_is_walked(self):
        line = line_of(bar())
        back = line.turned_round()
        pixels = np.array([[40.0, 60.0], [200.0, 62.0]])
        np.testing.assert_allclose(laid_along(line, back, pixels), pixels, atol=1.0)

    def test_half_width_corresponds_to_half_width(self):
        thin, wide = line_of(bar(width=3)), line_of(bar(width=5))
        pixels = np.array([[120.0, 60.0 + thin.half_width]])
        assert laid_along(thin, wide, pixels)[0, 1] - 60 == pytest.approx(wide.half_width, abs=0.3)

    def test_a_short_line_is_walked_to_and_fro_inside_its_ends(self):
        drawn, real = line_of(bar()), line_of(bar(100, 130, width=5))
        x = laid_along(drawn, real, np.column_stack([np.arange(25.0, 215), np.full(190, 60.0)]))[:, 0]
        assert x.min() > 95
        assert x.max() < 135
        assert set(np.sign(np.diff(x))) == {-1, 1}
        assert np.abs(np.diff(x)).max() < 2

    def test_a_quarter_turn_fits_worse_than_half_as_long_again(self):
        drawn = line_of(bar(20, 140))
        upright = line_of(np.ascontiguousarray(bar(20, 140).T))
        assert mismatch(drawn, upright) > 1 > 0.35 > mismatch(drawn, line_of(bar(20, 200)))

    @given(seed=st.integers(0, 10_000), height=st.integers(1, 80), width=st.integers(1, 80))
    def test_any_drawn_crack_has_places_for_all_its_pixels(self, seed, height, width):
        mask = crack((height, width), np.random.default_rng(seed))
        line, real = CentreLine.of(mask), line_of(bar())
        if line is not None:
            y, x = np.nonzero(mask)
            found = laid_along(line, real, np.column_stack([x, y]).astype(float))
            assert np.isfinite(found).all()
            assert (np.abs(found - [120, 60]) < [115, 15]).all()


def test_a_line_walked_to_and_fro_has_no_gaps():
    """A crack of 80 pixels, annotated 3 pixels wider all round, on a drawn bar of 380."""
    image = np.full((60, 200, 1), 150, np.uint8)
    image[29:32, 100:180] = 30
    marked = np.zeros((60, 200), bool)
    marked[26:35, 97:183] = True
    bank = ExemplarBank([Exemplar(image, marked, "tile", "crack", "1_mask.png")])
    drawn = Instance(1, "crack", np.ones((9, 380), bool), 10, 26, warp=None)
    background = np.full((60, 400, 1), 150, np.uint8)
    crop = crop_around(drawn.bbox, image_size=background.shape[:2])
    pasted = bank.warped_into(background, drawn, crop, category="tile", seed=0)[..., 0]
    middle = pasted[30 - crop.top, 30 - crop.left : 370 - crop.left]
    assert (middle < 90 * 2 / 255 - 1).all()


def test_a_real_crack_follows_every_bend_of_a_drawn_one():
    """A straight hairline, annotated 3 pixels wider on either side, borrowed by a wave: its dark middle is the wave."""
    image = np.full((120, 240, 1), 150, np.uint8)
    image[bar(width=3)] = 30
    bank = ExemplarBank([Exemplar(image, bar(width=9), "tile", "crack", "1_mask.png")])
    points = wave(25.0)
    mask = curve(points, width=7)
    x0, y0, x1, y1 = tight_box(mask)
    drawn = Instance(1, "crack", np.ascontiguousarray(mask[y0:y1, x0:x1]), x0, y0, warp=None)
    background = np.full((120, 240, 1), 150, np.uint8)
    crop = crop_around(drawn.bbox, image_size=background.shape[:2])
    pasted = bank.warped_into(background, drawn, crop, category="tile", seed=0)[..., 0]
    along_x, along_y = np.rint(points - [crop.left, crop.top]).astype(int).T
    middle = np.zeros(pasted.shape, bool)
    middle[along_y, along_x] = True
    off = instance_mask(drawn, crop) & (cv2.distanceTransform((~middle).astype(np.uint8), cv2.DIST_L2, 5) > 3.5)
    dark, bright = (value * 2 / 255 - 1 for value in (70, 120))
    assert (pasted[middle] < dark).mean() > 0.95
    assert off.any()
    assert (pasted[off] > bright).mean() > 0.95
