"""FAST keeps the laws of all renderers, and draws one crop per defect, whatever the image's size."""

from collections.abc import Callable

import numpy as np
import pytest
from renderer_laws import DrawnAnewLaws, KnownDefectLaws, background, bank, layout_of

from fastsynth.config import load_config
from fastsynth.diffusion.config import FASTConfig
from fastsynth.diffusion.renderer import FASTRenderer
from fastsynth.layouts.layout import add_instance
from fastsynth.types import Renderer, Warp


@pytest.fixture
def fast(pipeline) -> Callable[..., FASTRenderer]:
    """Builds a FASTRenderer on the tiny pipeline."""

    def build(**changes) -> FASTRenderer:
        defaults = {
            "context": 2.0,
            "num_inference_steps": 2,
            "guidance_scale": 1.0,
            "farm": "input",
            "start": "noise",
            "strength": 0.6,
        }
        defaults |= {"feather": 2.0, "background_mode": "x0_blend"}
        return FASTRenderer(pipeline, bank(), **(defaults | changes))

    return build


class TestFASTFromNoise(DrawnAnewLaws, KnownDefectLaws):
    @pytest.fixture
    def renderer(self, fast) -> Renderer:
        return fast()


class TestFASTFromExemplars(DrawnAnewLaws, KnownDefectLaws):
    @pytest.fixture
    def renderer(self, fast) -> Renderer:
        return fast(start="exemplar")


class TestFASTFromFARM(DrawnAnewLaws, KnownDefectLaws):
    @pytest.fixture
    def renderer(self, fast) -> Renderer:
        return fast(start="farm", farm="off", feather=0.0)


class TestFASTAsInThePaper(DrawnAnewLaws, KnownDefectLaws):
    @pytest.fixture
    def renderer(self, fast) -> Renderer:
        return fast(farm="output", background_mode="paste_all")


class TestFASTAsInTheAuthorsCode(DrawnAnewLaws, KnownDefectLaws):
    """Around the mask the model draws anew too, and still no pixel of it may change."""

    @pytest.fixture
    def renderer(self, fast) -> Renderer:
        return fast(background_mode="paste_250_750", num_inference_steps=4)


class TestCost:
    def test_a_large_image_costs_one_crop_per_defect(self, fast):
        image = np.full((3000, 4000, 3), 128, np.uint8)
        image[::7, ::5] = 90
        layout = layout_of(image, ("crack", 100, 50, 40, 3), ("dent", 3980, 2985, 20, 15), ("crack", 2000, 1500, 3, 60))
        renderer, batches = fast(), []
        renderer.pipeline.unet.register_forward_pre_hook(lambda _, arguments: batches.append(arguments[0].shape))
        (sample,) = renderer.render([layout], [1])
        assert batches == [(3, 2 * 4 + 64, 4, 4)] * 2
        changed = (sample.image != layout.background).any(axis=2)
        assert not (changed & ~layout.foreground).any()
        assert changed[layout.foreground].mean() > 0.5

    def test_all_defects_of_all_layouts_share_one_batch(self, fast):
        layouts = [
            layout_of(background(), ("crack", 3, 3, 8, 2), ("dent", 40, 20, 9, 9)),
            layout_of(background(seed=1)),
            layout_of(background(seed=2), ("dent", 10, 10, 20, 20)),
        ]
        renderer, batches = fast(num_inference_steps=4), []
        renderer.pipeline.unet.register_forward_pre_hook(lambda _, arguments: batches.append(len(arguments[0])))
        assert [sample.num_inference_steps for sample in renderer.render(layouts, [1, 2, 3])] == [4, 4, 4]
        assert batches == [3] * 4


class TestOverlap:
    def test_where_two_defects_overlap_the_later_one_lies_on_top(self, fast):
        image = background((60, 60, 3))
        lower, upper = ("crack", 10, 10, 30, 30), ("dent", 20, 20, 12, 12)
        both, alone = layout_of(image, lower, upper), layout_of(image, lower)
        (first,), (second,) = fast().render([both], [1]), fast().render([alone], [1])
        outside_upper = both.instance_map() != 2
        # kernels round differently in another batch
        difference = first.image[outside_upper].astype(int) - second.image[outside_upper]
        assert np.abs(difference).max() <= 1
        assert (first.image != second.image).any(axis=2)[~outside_upper].mean() > 0.3


class TestExemplars:
    def test_little_strength_is_nearly_a_copy_of_the_exemplar_s_reconstruction(self, fast):
        """The dial's lower end: what is drawn depends on the exemplar, not on the seed."""
        source = "tile/ground_truth/dent/0_mask.png"
        layout = add_instance(
            layout_of(background((48, 48, 1))), defect="dent", mask=np.ones((20, 18), bool), left=12, top=10,
            warp=Warp(source, (1.0, 0.0, 12.0, 0.0, 1.0, 10.0)),
        )  # fmt: skip
        spreads = []
        for strength in (0.01, 1.0):
            renderer = fast(start="exemplar", strength=strength, farm="off")
            images = [sample.image.astype(float) for sample in renderer.render([layout] * 4, [1, 2, 3, 4])]
            spreads.append(np.std(images, axis=0)[layout.foreground].mean())
        assert spreads[0] < 0.5 * spreads[1]

    def test_the_manifest_learns_how_it_started(self, fast):
        layout = layout_of(background(), ("dent", 10, 10, 8, 8))
        (from_noise,), (from_exemplar,) = (fast(start=start).render([layout], [1]) for start in ("noise", "exemplar"))
        assert from_noise.notes == {"start": "noise"}
        assert from_exemplar.notes == {"start": "exemplar", "strength": 0.6}


def test_a_bare_off_in_yaml_leaves_farm_out(tmp_path):
    """YAML 1.1 reads it as false."""
    path = tmp_path / "fast.yaml"
    path.write_text("farm: off\n")
    assert load_config(FASTConfig, path).farm == "off"
    assert load_config(FASTConfig, path, ["farm=off"]).farm == "off"
    path.write_text("farm: on\n")
    with pytest.raises(ValueError, match=r"farm: got True; Input should be 'input', 'output' or 'off'"):
        load_config(FASTConfig, path)
