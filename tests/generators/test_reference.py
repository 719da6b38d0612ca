"""The reference renderers keep the laws of all renderers; each fills the mask with what its paper says."""

import numpy as np
import pytest
from renderer_laws import DrawnAnewLaws, KnownDefectLaws, background, bank, layout_of

from fastsynth.layouts.crop import ValueRange
from fastsynth.types import Renderer
from generators.reference import ReferenceRenderer, copy_paste, cutpaste, draem, nsa


def normal(category: str, rng: np.random.Generator) -> np.ndarray:
    assert category == "tile"
    return rng.integers(20, 220, (40, 56, 3)).astype(np.uint8)


def reference(fill, context: float = 2.0) -> ReferenceRenderer:
    return ReferenceRenderer("reference", fill, context=context)


class TestCopyPaste(KnownDefectLaws):
    @pytest.fixture
    def renderer(self) -> Renderer:
        return reference(copy_paste(bank(), blend="light"))

    def test_the_defect_is_the_real_one_in_the_light_of_its_new_place(self, renderer):
        layout = layout_of(np.full((60, 60, 1), 100, np.uint8), ("crack", 10, 20, 30, 4), ("dent", 12, 40, 12, 12))
        (sample,) = renderer.render([layout], [1])
        assert (sample.image[21:23, 12:38] < 20).all()  # the real crack is 10 on about 110
        assert (sample.image[42:50, 14:22] > 190).all()  # the real dent is 240


class TestCopyPastePoisson(KnownDefectLaws):
    @pytest.fixture
    def renderer(self) -> Renderer:
        return reference(copy_paste(bank(), blend="poisson"))


class TestCutPaste(DrawnAnewLaws):
    @pytest.fixture
    def renderer(self) -> Renderer:
        return reference(cutpaste(jitter=0.1))

    def test_without_jitter_the_filling_is_a_place_of_the_same_image(self):
        # every pixel tells where it comes from
        y, x = np.mgrid[:100, :120]
        image = np.stack([y, x, np.zeros_like(x)], axis=2).astype(np.uint8)
        (sample,) = reference(cutpaste(jitter=0.0)).render([layout_of(image, ("dent", 30, 40, 12, 9))], [3])
        filling = sample.image[40:49, 30:42].astype(int)
        shift = filling[4, 6, :2] - (44, 36)
        assert shift.any()
        inside = sample.mask[40:49, 30:42] > 0
        np.testing.assert_array_equal(
            (filling[..., :2] - image[40:49, 30:42, :2])[inside], np.tile(shift, (inside.sum(), 1))
        )


class TestDRAEM(DrawnAnewLaws):
    @pytest.fixture
    def renderer(self) -> Renderer:
        return reference(draem(opacity=(0.2, 0.9)))

    def test_opacity_is_the_share_of_the_texture(self):
        layout = layout_of(np.full((60, 60, 3), 100, np.uint8), ("dent", 10, 10, 30, 30))
        faint, strong = (reference(draem(opacity=(b, b))).render([layout], [1])[0].image for b in (0.25, 1.0))
        expected = 0.75 * 100 + 0.25 * strong.astype(float)
        assert np.abs(faint - expected).max() <= 1

    def test_a_grey_picture_in_three_channels_gets_no_colours(self):
        grey, warm = np.full((60, 60, 3), 100, np.uint8), np.full((60, 60, 3), (100, 90, 80), np.uint8)
        renderer, seeds = reference(draem(opacity=(1.0, 1.0))), range(8)
        colours = [
            [np.ptp(s.image.astype(int), axis=2)[s.mask > 0].max() for s in renderer.render([layout] * 8, seeds)]
            for layout in (layout_of(picture, ("dent", 10, 10, 30, 30)) for picture in (grey, warm))
        ]
        assert max(colours[0]) == 0
        assert max(colours[1]) > 20


class TestNSA(DrawnAnewLaws):
    @pytest.fixture
    def renderer(self) -> Renderer:
        return reference(nsa(normal, scale=(0.7, 1.3)))

    def test_a_flat_patch_changes_nothing(self):
        # it has no gradients to bring: the larger ones are everywhere the background's own
        flat = nsa(lambda category, rng: np.full((40, 56, 3), 200, np.uint8), scale=(1.0, 1.0))
        layout = layout_of(background(), ("dent", 20, 15, 20, 20))
        (sample,) = reference(flat).render([layout], [1])
        assert np.abs(sample.image.astype(int) - layout.background).max() <= 1
        assert ValueRange.of(layout.background) == ValueRange(0.0, 255.0)

    def test_of_a_half_calm_picture_the_lively_half_is_taken(self):
        """A patch taken blindly would leave the surface as it is every other time."""
        striped = np.full((80, 240, 1), 120, np.uint8)
        striped[:, 120::4] = 220
        bold = reference(nsa(lambda category, rng: striped, scale=(1.0, 1.0)))
        layout = layout_of(np.full((60, 60, 1), 120, np.uint8), ("dent", 20, 20, 16, 16))
        inside = layout.foreground
        for sample in bold.render([layout] * 12, range(12)):
            assert np.abs(sample.image[inside].astype(int) - 120).max() > 30
