"""Laws that every renderer keeps, for the test classes of the single renderers to derive from."""

import numpy as np
import pytest

from fastsynth.layouts.exemplar import Exemplar, ExemplarBank
from fastsynth.layouts.layout import add_instance
from fastsynth.types import Layout, Renderer

BACKGROUNDS = {
    "grey 8 bit": ((50, 70, 1), np.uint8),
    "colour 8 bit": ((70, 50, 3), np.uint8),
    "grey 16 bit": ((60, 60, 1), np.uint16),
    "smaller than a crop": ((20, 24, 3), np.uint8),
}


def background(shape=(50, 70, 3), dtype=np.uint8, seed=0) -> np.ndarray:
    low, high = (60, 160) if dtype == np.uint8 else (3000, 9000)
    return np.random.default_rng(seed).integers(low, high, shape).astype(dtype)


def layout_of(image: np.ndarray, *places: tuple[str, int, int, int, int]) -> Layout:
    """Boxes of (defect, left, top, width, height), a corner of each cut off."""
    layout = Layout(image, "tile/train/good/000.png", "tile")
    for defect, left, top, width, height in places:
        mask = np.ones((height, width), bool)
        mask[0, 0] = width * height == 1
        layout = add_instance(layout, defect=defect, mask=mask, left=left, top=top)
    return layout


class RendererLaws:
    """Derive a test class from this and give it a fixture `renderer` that knows tile/crack and tile/dent of `bank`."""

    @pytest.fixture(params=list(BACKGROUNDS))
    def layout(self, request) -> Layout:
        """Two defects of two classes, one of them in the corner, on every kind of image."""
        shape, dtype = BACKGROUNDS[request.param]
        height, width = shape[:2]
        places = ("crack", 2, 5, 9, 3), ("dent", width - 7, height - 6, 7, 6)
        return layout_of(background(shape, dtype), *places)

    def test_outside_the_mask_the_background_stays_bit_for_bit(self, renderer: Renderer, layout: Layout):
        kept = layout.background.copy()
        (sample,) = renderer.render([layout], [1])
        outside = ~layout.foreground
        np.testing.assert_array_equal(sample.image[outside], layout.background[outside])
        np.testing.assert_array_equal(layout.background, kept)

    def test_inside_something_changed_in_every_instance(self, renderer: Renderer, layout: Layout):
        (sample,) = renderer.render([layout], [1])
        changed = (sample.image != layout.background).any(axis=2)
        for instance in layout.instances:
            x0, y0, x1, y1 = instance.bbox
            assert changed[y0:y1, x0:x1][instance.mask].mean() > 0.5

    def test_size_depth_mask_and_class_are_those_of_the_layout(self, renderer: Renderer, layout: Layout):
        (sample,) = renderer.render([layout], [1])
        assert (sample.image.shape, sample.image.dtype) == (layout.background.shape, layout.background.dtype)
        np.testing.assert_array_equal(sample.mask, np.where(layout.foreground, 255, 0))
        assert sample.layout is layout
        assert (sample.seed, sample.renderer) == (1, renderer.name)

    def test_the_same_seeds_give_the_same_bytes(self, renderer: Renderer, layout: Layout):
        first, second = (renderer.render([layout, layout], [1, 2]) for _ in range(2))
        for one, other in zip(first, second, strict=True):
            np.testing.assert_array_equal(one.image, other.image)

    def test_a_sample_hardly_depends_on_its_batch(self, renderer: Renderer, layout: Layout):
        others = [layout_of(background(seed=seed), ("dent", 5, 5, 20, 10)) for seed in (1, 2)]
        together = renderer.render([others[0], layout, others[1]], [5, 1, 6])[1]
        (alone,) = renderer.render([layout], [1])
        # kernels round differently in another batch, so a pixel may fall to the other side of a half
        assert np.abs(together.image.astype(int) - alone.image).max() <= max(1, 0.001 * np.ptp(layout.background))

    def test_a_layout_without_defects_is_its_background(self, renderer: Renderer):
        empty, full = layout_of(background()), layout_of(background(), ("crack", 3, 3, 8, 2))
        samples = renderer.render([empty, full], [1, 2])
        np.testing.assert_array_equal(samples[0].image, empty.background)
        assert not samples[0].mask.any()
        assert samples[1].mask.any()
        assert renderer.render([], []) == []

    def test_a_defect_of_one_pixel_at_a_corner_is_drawn(self, renderer: Renderer):
        layout = layout_of(background(), ("dent", 69, 0, 1, 1))
        (sample,) = renderer.render([layout], [1])
        assert (sample.image != layout.background).any(axis=2).sum() <= 1


class DrawnAnewLaws(RendererLaws):
    """For renderers that draw something new from every seed."""

    def test_another_seed_gives_other_pixels_even_for_the_same_layout_in_one_call(
        self, renderer: Renderer, layout: Layout
    ):
        first, second, again = renderer.render([layout, layout, layout], [1, 2, 1])
        differs = (first.image != second.image).any(axis=2)
        assert differs[layout.foreground].mean() > 0.3
        assert not differs[~layout.foreground].any()
        assert np.abs(first.image.astype(int) - again.image).max() <= 0.001 * np.ptp(layout.background)


class KnownDefectLaws(RendererLaws):
    """For renderers that know defects by name."""

    def test_an_unknown_defect_is_refused(self, renderer: Renderer):
        with pytest.raises(ValueError, match="tile/rust"):
            renderer.render([layout_of(background(), ("rust", 3, 3, 8, 2))], [1])


def bank() -> ExemplarBank:
    """A dark crack and a bright dent, on 8-bit grey."""
    found = []
    for defect, value, box in (("crack", 10, np.s_[20:24, 5:40]), ("dent", 240, np.s_[10:30, 12:30])):
        image, foreground = background((48, 48, 1)), np.zeros((48, 48), bool)
        foreground[box] = True
        image[foreground] = value
        found.append(Exemplar(image, foreground, "tile", defect, f"tile/ground_truth/{defect}/0_mask.png"))
    return ExemplarBank(found)
