"""Laws of the crops: outside the mask no bit changes, small defects zoom in, thin masks survive every size."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastsynth.layouts.crop import (
    MIN_SIDE,
    Crop,
    ValueRange,
    _mirror,
    add_change,
    crop_around,
    cut,
    cut_mask,
    feather_weight,
    mask_to_model,
    paste,
    ring,
)

SIZE = 32
DISC = np.hypot(*(np.mgrid[:41, :41] - 20)) <= 15


@st.composite
def pictures(draw, shortest=1):
    """An image of any kind, any shape down to a single row."""
    height, width = draw(st.tuples(st.integers(shortest, 70), st.integers(shortest, 70)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    dtype, channels = draw(st.sampled_from([np.uint8, np.uint16])), draw(st.sampled_from([1, 3]))
    return rng.integers(0, np.iinfo(dtype).max, (height, width, channels), dtype, endpoint=True)


@st.composite
def boxes(draw, height, width):
    """Any box inside (height, width), those at borders and corners often."""
    x = sorted(draw(st.tuples(st.integers(0, width), st.integers(0, width)).filter(lambda pair: pair[0] != pair[1])))
    y = sorted(draw(st.tuples(st.integers(0, height), st.integers(0, height)).filter(lambda pair: pair[0] != pair[1])))
    return x[0], y[0], x[1], y[1]


def noise(seed: int, low: float = -1.2, high: float = 1.2) -> np.ndarray:
    return np.random.default_rng(seed).uniform(low, high, (3, SIZE, SIZE)).astype(np.float32)


class TestPaste:
    @settings(max_examples=40, deadline=None)
    @given(data=st.data(), image=pictures(), seed=st.integers(0, 2**32), feather=st.floats(0, 5))
    def test_only_pixels_inside_the_foreground_ever_change(self, data, image, seed, feather):
        height, width = image.shape[:2]
        box = data.draw(boxes(height, width))
        foreground = np.zeros((height, width), bool)
        x0, y0, x1, y1 = box
        foreground[y0:y1, x0:x1] = np.random.default_rng(seed).random((y1 - y0, x1 - x0)) < 0.7
        crop = crop_around(box, image_size=(height, width), context=data.draw(st.floats(1.1, 4)))
        before = image.copy()
        values = ValueRange.of(image)
        inside = cut_mask(foreground, crop)
        drawn = add_change(values.to_float(cut(image, crop)), noise(seed), inside, feather=feather)
        paste(image, drawn, crop, inside, values=values)
        np.testing.assert_array_equal(image[~foreground], before[~foreground])
        assert image.dtype == before.dtype

    @settings(max_examples=40, deadline=None)
    @given(
        image=pictures(),
        left=st.integers(-60, 60),
        top=st.integers(-60, 60),
        side=st.integers(1, 130),
        seed=st.integers(0, 2**32),
    )
    def test_that_holds_for_crops_anywhere_beyond_the_border(self, image, left, top, side, seed):
        height, width = image.shape[:2]
        left, top = (min(max(start, 1 - side), length - 1) for start, length in ((left, width), (top, height)))
        foreground = np.random.default_rng(seed).random((height, width)) < 0.3
        crop, before = Crop(left, top, side), image.copy()
        values = ValueRange.of(image)
        drawn = np.random.default_rng(seed).uniform(-1.2, 1.2, (side, side, image.shape[2]))
        paste(image, drawn, crop, cut_mask(foreground, crop), values=values)
        np.testing.assert_array_equal(image[~foreground], before[~foreground])

    @settings(max_examples=40, deadline=None)
    @given(data=st.data(), image=pictures())
    def test_the_own_crop_without_a_change_changes_nothing(self, data, image):
        crop = crop_around(data.draw(boxes(*image.shape[:2])), image_size=image.shape[:2])
        values, before = ValueRange.of(image), image.copy()
        everything = cut_mask(np.ones(image.shape[:2], bool), crop)
        unchanged = np.zeros((3, SIZE, SIZE), np.float32)
        drawn = add_change(values.to_float(cut(image, crop)), unchanged, everything, feather=3.0)
        paste(image, drawn, crop, everything, values=values)
        np.testing.assert_array_equal(image, before)

    @pytest.mark.parametrize("side", [24, 32, 80])
    def test_a_change_drawn_at_the_model_s_size_arrives_at_native_size(self, side):
        image = np.random.default_rng(0).integers(60, 120, (100, 100, 3), np.uint8)
        crop, values, before = Crop(10, 5, side), ValueRange.of(image), image.copy()
        y, x = np.mgrid[:SIZE, :SIZE] / (SIZE - 1)
        change = np.broadcast_to((0.2 * x + 0.1 * y).astype(np.float32), (3, SIZE, SIZE))
        inner = np.zeros((side, side), bool)
        inner[side // 6 : -side // 6, side // 6 : -side // 6] = True
        drawn = add_change(values.to_float(cut(image, crop)), change, inner, feather=0)
        paste(image, drawn, crop, inner, values=values)
        added = (image.astype(int) - before)[5 : 5 + side, 10 : 10 + side]
        y, x = np.mgrid[:side, :side] / (side - 1)
        wanted = 127.5 * (0.2 * x + 0.1 * y)[..., None]
        assert np.abs(added - wanted)[inner].max() <= 2  # the grain of the source is still there, pixel by pixel

    def test_inside_a_thin_mask_the_change_arrives_in_full(self):
        image = np.full((40, 40, 1), 100, np.uint8)
        line = np.zeros((SIZE, SIZE), bool)
        line[10, 3:29] = True
        change = np.full((3, SIZE, SIZE), -1, np.float32)
        crop, values = Crop(4, 4, SIZE), ValueRange.of(image)
        drawn = add_change(values.to_float(cut(image, crop)), change, line, feather=3.0)
        paste(image, drawn, crop, line, values=values)
        assert (image[14, 7:33] == 0).all()


class TestCropAround:
    @settings(max_examples=40, deadline=None)
    @given(data=st.data(), height=st.integers(1, 500), width=st.integers(1, 500), context=st.floats(1.1, 4))
    def test_it_holds_the_box_and_zooms_into_small_ones(self, data, height, width, context):
        x0, y0, x1, y1 = data.draw(boxes(height, width))
        crop = crop_around((x0, y0, x1, y1), image_size=(height, width), context=context)
        longer = max(x1 - x0, y1 - y0)
        assert crop.left <= x0 < x1 <= crop.left + crop.side
        assert crop.top <= y0 < y1 <= crop.top + crop.side
        assert MIN_SIDE <= crop.side <= max(MIN_SIDE, round(context * longer), longer + 8)

    @settings(max_examples=40, deadline=None)
    @given(data=st.data(), height=st.integers(64, 500), width=st.integers(64, 500))
    def test_nothing_is_mirrored_where_the_crop_fits(self, data, height, width):
        box = data.draw(boxes(height, width))
        crop = crop_around(box, image_size=(height, width))
        if crop.side <= min(height, width):
            assert 0 <= crop.left <= width - crop.side
            assert 0 <= crop.top <= height - crop.side


class TestCut:
    @settings(max_examples=40, deadline=None)
    @given(length=st.integers(1, 40), before=st.integers(0, 100), after=st.integers(0, 100))
    def test_mirrored_indices_are_those_of_numpy(self, length, before, after):
        wanted = np.pad(np.arange(length), (before, after), mode="reflect")
        np.testing.assert_array_equal(_mirror(length, before, after), wanted)

    @settings(max_examples=40, deadline=None)
    @given(data=st.data(), image=pictures(shortest=2))
    def test_a_crop_beyond_the_border_is_a_window_of_the_padded_image(self, data, image):
        height, width = image.shape[:2]
        crop = crop_around(data.draw(boxes(height, width)), image_size=(height, width))
        pad = 200
        padded = np.pad(image, ((pad, pad), (pad, pad), (0, 0)), mode="reflect")
        wanted = padded[crop.top + pad :, crop.left + pad :][: crop.side, : crop.side]
        np.testing.assert_array_equal(cut(image, crop), wanted)

    def test_a_mask_is_empty_beyond_the_border(self):
        cropped = cut_mask(np.ones((10, 20), bool), Crop(-3, -4, 30))
        wanted = np.zeros((30, 30), bool)
        wanted[4:14, 3:23] = True
        np.testing.assert_array_equal(cropped, wanted)


class TestMaskToModel:
    @settings(max_examples=40, deadline=None)
    @given(side=st.integers(1, 400), size=st.sampled_from([32, 64, 128]), seed=st.integers(0, 2**32))
    def test_every_pixel_is_still_there_at_the_model_s_size(self, side, size, seed):
        foreground = np.zeros((side, side), bool)
        y, x = np.random.default_rng(seed).integers(side, size=2)
        foreground[y, x] = True
        scaled = mask_to_model(foreground, size=size)
        assert scaled.shape == (1, size, size)
        assert scaled.dtype == np.float32
        assert set(np.unique(scaled)) <= {0.0, 1.0}
        rows, columns = np.nonzero(scaled[0])
        assert np.abs((rows + 0.5) / size - (y + 0.5) / side).min() <= 1 / min(size, side)
        assert np.abs((columns + 0.5) / size - (x + 0.5) / side).min() <= 1 / min(size, side)

    @pytest.mark.parametrize("side", [129, 200, 300, 1000])
    def test_a_line_of_one_pixel_stays_in_one_piece_when_zoomed_out(self, side):
        scaled = mask_to_model(np.eye(side, dtype=bool), size=128)[0]
        assert scaled.diagonal().all()

    def test_at_the_same_size_it_is_the_mask(self):
        np.testing.assert_array_equal(mask_to_model(DISC, size=41)[0] > 0, DISC)


class TestFeather:
    @settings(max_examples=40, deadline=None)
    @given(seed=st.integers(0, 2**32), feather=st.floats(0, 8))
    def test_it_is_0_outside_and_between_0_and_1_inside(self, seed, feather):
        foreground = np.random.default_rng(seed).random((30, 40)) < 0.6
        weight = feather_weight(foreground, feather)
        assert not weight[~foreground].any()
        assert (weight[foreground] > 0).all()
        assert weight.max() <= 1

    def test_it_rises_inwards_and_is_1_from_the_feather_s_depth_on(self):
        foreground = np.zeros((41, 41), bool)
        foreground[5:36, 5:36] = True
        along = feather_weight(foreground, 3.0)[20, 4:21]
        np.testing.assert_allclose(along[:4], [0, 1 / 3, 2 / 3, 1], atol=1e-6)
        assert (along[3:] == 1).all()

    @pytest.mark.parametrize("width", [1, 2, 3, 4])
    def test_thin_masks_keep_their_full_strength(self, width):
        foreground = np.zeros((30, 30), bool)
        foreground[10 : 10 + width, 4:26] = True
        assert (feather_weight(foreground, 3.0)[foreground] == 1).all()

    def test_no_feather_is_the_mask_itself(self):
        np.testing.assert_array_equal(feather_weight(DISC, 0.0), DISC.astype(np.float32))


class TestValues:
    @settings(max_examples=40, deadline=None)
    @given(low=st.integers(0, 65535), spread=st.integers(0, 65535), channels=st.sampled_from([1, 3]))
    def test_16_bit_pixels_come_back_as_they_went_in(self, low, spread, channels):
        high = min(low + spread, 65535)
        image = np.linspace(low, high, 300).astype(np.uint16).reshape(20, 15, 1).repeat(channels, axis=2)
        values = ValueRange.of(image)
        scaled = values.to_float(image)
        assert scaled.min() == -1
        assert scaled.max() <= 1
        np.testing.assert_array_equal(values.from_float(scaled, image.dtype), image)

    def test_8_bit_pixels_come_back_and_keep_their_meaning_in_dark_pictures(self):
        image = np.arange(40, dtype=np.uint8).reshape(5, 8, 1)
        values = ValueRange.of(image)
        np.testing.assert_allclose(values.to_float(image), image / 127.5 - 1, atol=1e-6)
        np.testing.assert_array_equal(values.from_float(values.to_float(image), image.dtype), image)

    def test_what_a_model_overshoots_is_clipped_to_the_pixel_type(self):
        values = ValueRange(1000.0, 60000.0)
        pixels = values.from_float(np.array([-9.0, 9.0]), np.dtype(np.uint16))
        assert pixels.tolist() == [0, 65535]


def test_a_ring_lies_around_the_mask_with_a_gap_of_one_pixel():
    foreground = np.zeros((30, 30), bool)
    foreground[12:16, 10:20] = True
    wanted = np.zeros((30, 30), bool)
    wanted[7:21, 5:25] = True
    wanted[11:17, 9:21] = False
    np.testing.assert_array_equal(ring(foreground, width=4), wanted)
