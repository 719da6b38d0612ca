"""CRN and pix2pixHD keep the laws of all renderers, and draw in the hole alone."""

import dataclasses
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from renderer_laws import DrawnAnewLaws, KnownDefectLaws, background, layout_of

from fastsynth.layouts.editing import set_style
from fastsynth.layouts.editing_modes import edit_render
from fastsynth.layouts.layout import add_instance
from fastsynth.layouts.placement import object_region
from fastsynth.layouts.poses import ALL_POSES, Poses
from fastsynth.types import CentreStyle, ReferenceStyle, Renderer, SeedStyle, instance_seed
from generators.batches import CropSource
from generators.encoding import instance_edges, one_hot, surroundings
from generators.layout_model import LayoutModel
from generators.render import LayoutRenderer
from generators.style import paint_styles
from generators.surface import FLOOR, LEVEL, surface_detail, surface_gain, times
from generators.tones import Tone


def photographed(style: ReferenceStyle) -> tuple[np.ndarray, np.ndarray]:
    """`bright.png` and `dark.png`: a dent of that kind on grey."""
    image, inside = np.full((40, 40, 3), 125, np.uint8), np.zeros((40, 40), bool)
    inside[12:24, 10:22] = True
    image[inside] = 250 if style.image == "bright.png" else 5
    return image, inside


def renderer_of(model: LayoutModel, *, feather: float, poses: Poses = ALL_POSES) -> LayoutRenderer:
    return LayoutRenderer(model, size=32, context=2.0, feather=feather, references=photographed, poses=poses)


@pytest.fixture(scope="module")
def crn_renderer(fit_crn, crops, tmp_path_factory) -> LayoutRenderer:
    """After a few steps."""
    model = fit_crn(crops, tmp_path_factory.mktemp("crn"), steps=(2, 6), num_outputs=4)
    return renderer_of(model, feather=2.0)


@pytest.fixture(scope="module")
def gan_renderer(fit_pix2pixhd, crops, tmp_path_factory) -> LayoutRenderer:
    model = fit_pix2pixhd(crops, tmp_path_factory.mktemp("gan"), steps=(2, 6))
    return renderer_of(model, feather=0.0)


@pytest.fixture(scope="module")
def styled(fit_pix2pixhd, crops, tmp_path_factory) -> LayoutRenderer:
    """Its bank has three looks of each class, and its pictures depend on them."""
    model = fit_pix2pixhd(crops, tmp_path_factory.mktemp("styled"), steps=(30,), batch_size=4)
    return renderer_of(model, feather=1.0)


class TestCRN(DrawnAnewLaws, KnownDefectLaws):
    @pytest.fixture
    def renderer(self, crn_renderer) -> Renderer:
        return crn_renderer


class TestPix2PixHD(DrawnAnewLaws, KnownDefectLaws):
    @pytest.fixture
    def renderer(self, gan_renderer) -> Renderer:
        return gan_renderer


@pytest.mark.parametrize("name", ["crn_renderer", "gan_renderer"])
def test_a_sample_s_bytes_do_not_depend_on_its_batch(request, name):
    renderer = request.getfixturevalue(name)
    layouts = [layout_of(background(seed=seed), ("dent", 5, 5, 20, 10)) for seed in range(3)]
    together = renderer.render(layouts, [5, 1, 6])[1]
    (alone,) = renderer.render(layouts[1:2], [1])
    np.testing.assert_array_equal(together.image, alone.image)


@pytest.mark.parametrize("kind", ["crn", "pix2pixhd"])
def test_a_trained_renderer_draws_what_it_was_shown(kind, fit_crn, fit_pix2pixhd, crops, tmp_path):
    """Cracks dark, dents bright, on a background it has not seen."""
    # of several outputs each takes a class of its own in so few steps
    fit: Callable[..., LayoutModel] = {"crn": partial(fit_crn, num_outputs=1), "pix2pixhd": fit_pix2pixhd}[kind]
    model = fit(crops, tmp_path, steps=({"crn": 120, "pix2pixhd": 60}[kind],), batch_size=4)
    renderer = renderer_of(model, feather=1.0)
    layout = layout_of(np.full((64, 64, 1), 128, np.uint8), ("crack", 8, 10, 3, 12), ("dent", 40, 30, 12, 12))
    (sample,) = renderer.render([layout], [3])
    crack, dent = (sample.image[layout.instance_map() == number].mean() for number in (1, 2))
    assert crack < 90
    assert dent > 160


def test_a_saved_model_draws_the_same_picture(gan_renderer, crn_renderer, tmp_path):
    layout = layout_of(background(), ("crack", 3, 3, 8, 2), ("dent", 20, 20, 10, 10))
    for renderer in (gan_renderer, crn_renderer):
        renderer.model.save_pretrained(tmp_path / renderer.name)
        again = LayoutModel.from_pretrained(tmp_path / renderer.name)
        loaded = renderer_of(again, feather=renderer.feather)
        np.testing.assert_array_equal(loaded.render([layout], [1])[0].image, renderer.render([layout], [1])[0].image)
        for name in ("class_names", "layer_weights", "win_shares"):
            assert getattr(again, name) == getattr(renderer.model, name)
    with pytest.raises(FileNotFoundError, match=r"layout_model.json is missing"):
        LayoutModel.from_pretrained(tmp_path)


def test_what_drawings_of_a_class_lack_is_made_up(crn_renderer):
    """A shift where the model draws, under every surface's own brightness; other classes stay as they were."""
    layout = layout_of(np.full((64, 64, 3), 90, np.uint8), ("crack", 8, 10, 3, 12), ("dent", 40, 30, 12, 12))
    unlike = (-2.0, 2.0), (-1.8, 2.2)  # whatever is drawn gets 0.2 brighter
    tones = (Tone(), Tone(), Tone(*unlike, (0.0, 1.0), (0.0, 1.0)), Tone())
    (plain,) = crn_renderer.render([layout], [3])
    brighter = renderer_of(dataclasses.replace(crn_renderer.model, tones=tones), feather=2.0)
    (toned,) = brighter.render([layout], [3])
    change = toned.image.astype(int) - plain.image
    # the surface is at 90 of 255, the model sees it at LEVEL; the shift of 0.2 is 0.1 of the range there
    expected = 0.1 * 255 * (90 / 255 + FLOOR) / (LEVEL + FLOOR)
    crack = change[layout.instance_map() == 1]
    np.testing.assert_allclose(np.median(crack), expected, atol=1.5)
    assert (change[layout.instance_map() != 1] == 0).all()


def test_the_layout_drawn_is_background_object_and_defect_in_an_allowed_pose(crn_renderer):
    """A plate in a dark frame, with a dent over its edge; the crop is all of it, at its own size."""
    picture = np.full((32, 32, 3), 20, np.uint8)
    picture[4:28, 4:28] = np.random.default_rng(0).integers(170, 200, (24, 24, 3))
    layout = layout_of(picture, ("dent", 20, 10, 12, 12))
    labels = torch.from_numpy(object_region(picture).astype(np.int64))
    assert labels[6:26, 6:26].all()
    assert not labels[:2].any()
    inside = torch.from_numpy(layout.foreground)
    labels[inside] = 3
    clean = torch.from_numpy(picture).permute(2, 0, 1) / 127.5 - 1
    upright, turned = Poses((0,), flip=False), Poses((1,), flip=False)
    seed = instance_seed(layout.instances[0], 7, renderer="crn")

    def drawn(turns: int) -> np.ndarray:
        there, hole, around = (torch.rot90(t, turns, (-2, -1)) for t in (labels, inside, clean))
        opening = hole[None, None].float()
        gain = surface_gain(around[None], opening)
        context = surroundings(times(around[None], gain), opening)[0]
        found = crn_renderer.model.draw(there, hole.long(), seed=seed, context=context)
        found = times(found, surface_detail(around[None], opening)[0] / gain[0])
        return ((torch.rot90(found, -turns, (-2, -1)) + 1) * 127.5).permute(1, 2, 0).numpy()[layout.foreground]

    for poses, turns in ((upright, 0), (turned, 1)):
        (sample,) = renderer_of(crn_renderer.model, feather=0.0, poses=poses).render([layout], [7])
        assert np.abs(sample.image[layout.foreground] - drawn(turns)).max() <= 1
        assert np.abs(sample.image[layout.foreground] - drawn(1 - turns)).max() > 1


def test_what_lies_under_the_mask_gives_its_grain_alone(gan_renderer):
    """Another background under the same mask: what is drawn is brighter there by as much as that background is."""
    clean, other = (np.full((48, 48, 3), 120, np.uint8) for _ in range(2))
    other[20:28, 20:28] = 96
    images = [gan_renderer.render([layout_of(each, ("dent", 16, 16, 16, 16))], [4])[0].image for each in (clean, other)]
    intensity = [image / 255 + FLOOR for image in images]
    expected = np.ones((48, 48, 1))
    expected[20:28, 20:28] = (96 / 255 + FLOOR) / (120 / 255 + FLOOR)
    assert np.abs(intensity[1] - intensity[0] * expected)[18:30, 18:30].max() < 2.5 / 255


def test_the_same_defect_on_a_darker_surface_is_darker_by_as_much(gan_renderer):
    grey = (120, 70)
    images = [
        gan_renderer.render([layout_of(np.full((48, 48, 1), value, np.uint8), ("dent", 16, 16, 16, 16))], [4])[0].image
        for value in grey
    ]
    bright, dark = (image[20:28, 20:28] / 255 + FLOOR for image in images)
    assert (images[0][20:28, 20:28] != 120).any()
    expected = (grey[1] / 255 + FLOOR) / (grey[0] / 255 + FLOOR)
    assert np.abs(dark / bright - expected).max() < 0.02


class TestOutputs:
    """Which of the outputs of a CRN is drawn."""

    def chosen(self, renderer, shares, labels) -> np.ndarray:
        model = dataclasses.replace(renderer.model, win_shares=shares)
        return np.array([model.choose_output(torch.tensor(labels), seed=seed) for seed in range(400)])

    def test_an_output_is_drawn_as_often_as_it_won_the_defect(self, crn_renderer):
        shares = ((0.0, 0.0, 0.75, 0.0), (1.0, 1.0, 0.0, 0.5), (0.0, 0.0, 0.25, 0.5), (0.0,) * 4)
        crack = self.chosen(crn_renderer, shares, [[0, 1], [1, 2]])  # the surface around it does not count
        assert {*crack} == {0, 2}
        assert np.mean(crack == 0) == pytest.approx(0.75, abs=0.08)
        both = self.chosen(crn_renderer, shares, [[2, 3]])
        assert np.mean(both == 2) == pytest.approx(0.375, abs=0.08)

    def test_without_a_record_all_are_drawn(self, crn_renderer):
        assert {*self.chosen(crn_renderer, (), [[0, 2]])} == {0, 1, 2, 3}

    def test_a_training_leaves_its_record(self, crn_renderer):
        shares = np.array(crn_renderer.model.win_shares)
        assert shares.shape == (4, 4)
        np.testing.assert_allclose(shares.sum(axis=0), 1, rtol=1e-5)


class TestStyles:
    @pytest.fixture
    def layout(self):
        return layout_of(background(), ("crack", 3, 3, 8, 3), ("dent", 30, 20, 12, 12))

    def looks(self, renderer, layout, *styles):
        layouts = [set_style(layout, layout.instances[-1].id, style) for style in styles]
        return [sample.image for sample in renderer.render(layouts, [1] * len(styles))]

    def test_the_parts_of_one_instance_look_alike(self, styled):
        """A cluster of pits is one instance: whatever its seed, all of them get one centre."""
        mask = np.zeros((20, 20), bool)
        mask[:6, :6] = mask[:6, 12:18] = mask[14:, :6] = mask[14:, 14:] = True
        layout = layout_of(np.full((64, 64, 1), 128, np.uint8))
        layout = add_instance(layout, defect="dent", mask=mask, left=22, top=22)
        upright = renderer_of(styled.model, feather=1.0, poses=Poses((0,), flip=False))
        centres = self.looks(upright, layout, *map(CentreStyle, range(3)))
        assert len({image.tobytes() for image in centres}) > 1  # else any look would do
        for image in self.looks(upright, layout, *map(SeedStyle, range(6))):
            assert any((image == centre).all() for centre in centres)

    def test_every_bank_centre_is_a_look_of_its_own_and_the_same_every_time(self, styled, layout):
        centres = styled.model.bank.of_class(styled.model.class_id("tile/dent"))
        assert len(centres) == 3
        *images, again = self.looks(styled, layout, *map(CentreStyle, (0, 1, 2, 0)))
        np.testing.assert_array_equal(images[0], again)
        inside = layout.instance_map() == 2
        for image in images[1:]:
            changed = (image != images[0]).any(axis=2)
            assert changed[inside].any()
            assert not changed[~inside].any()

    def test_a_centre_is_the_style_of_the_bank_and_reaches_the_network(self, styled):
        label = styled.model.class_id("tile/dent")
        styles = [styled.model.centre_style(label, k) for k in (0, 1)]
        assert torch.equal(styles[1], styled.model.bank.centres[label, 1])
        labels = torch.zeros(32, 32, dtype=torch.int64)
        labels[10:20, 10:20] = label
        planes = {"seed": 0, "context": torch.zeros(4, 32, 32)}
        drawn = [styled.model.draw(labels, (labels > 0).long(), styles={1: style}, **planes) for style in styles]
        assert not torch.equal(*drawn)

    def test_a_reference_looks_as_the_encoder_sees_it(self, styled, layout):
        bright, dark = self.looks(styled, layout, *(ReferenceStyle(f"{name}.png", 1) for name in ("bright", "dark")))
        assert (bright != dark).any(axis=2)[layout.instance_map() == 2].any()
        whole = torch.zeros(3, 32, 32)
        inside = torch.ones(32, 32, dtype=torch.bool)
        seen = styled.model.encode_style(whole, inside)
        with torch.no_grad():
            torch.testing.assert_close(seen, styled.model.encoder.features(whole[None])[0].mean((1, 2)))

    @pytest.fixture
    def even_crn(self, crn_renderer) -> LayoutRenderer:
        """All outputs are drawn, also those that won nothing."""
        return renderer_of(dataclasses.replace(crn_renderer.model, win_shares=()), feather=crn_renderer.feather)

    @pytest.mark.parametrize("name", ["even_crn", "gan_renderer"])
    def test_a_seed_of_its_own_changes_one_instance_alone(self, request, name, layout):
        first, second, again = self.looks(request.getfixturevalue(name), layout, *map(SeedStyle, (1, 2, 1)))
        changed = (first != second).any(axis=2)
        assert changed[layout.instance_map() == 2].any()
        assert not changed[layout.instance_map() != 2].any()
        np.testing.assert_array_equal(first, again)

    def test_a_restyled_edit_leaves_every_pixel_outside_as_it_was(self, styled, layout):
        (picture,) = styled.render([layout], [1])
        after = [set_style(layout, 2, style) for style in (CentreStyle(1), ReferenceStyle("dark.png", 1))]
        for sample in edit_render(styled, layout, after, [1, 1], picture=picture.image):
            outside = layout.instance_map() != 2
            np.testing.assert_array_equal(sample.image[outside], picture.image[outside])

    def test_looks_that_a_renderer_does_not_have_are_refused_in_one_line(self, styled, crn_renderer, layout):
        for renderer, style, message in (
            (styled, CentreStyle(9), "centre 9 of class 3; the style bank has 0 to 2 of it"),
            (crn_renderer, CentreStyle(0), "renderer crn knows seeds only"),
            (crn_renderer, ReferenceStyle("dark.png", 1), "renderer crn knows seeds only"),
        ):
            with pytest.raises(ValueError, match=message):
                self.looks(renderer, layout, style)
        for ask in (
            lambda model: model.centre_style(1, 0),
            lambda model: model.encode_style(torch.zeros(3, 32, 32), torch.ones(32, 32, dtype=torch.bool)),
        ):
            with pytest.raises(ValueError, match="this crn renderer has no style"):
                ask(crn_renderer.model)


class TestLayoutModel:
    def test_any_size_is_drawn_as_a_larger_one_and_cut(self, fit_crn, fit_pix2pixhd, pairs, tmp_path):
        """The networks halve twice; what they see beyond the layout repeats its last rows and columns."""
        for name, fit in (("crn", fit_crn), ("gan", fit_pix2pixhd)):
            model = fit(pairs, tmp_path / name, steps=(1,))
            for (height, width), padded in (((32, 32), (32, 32)), ((33, 45), (36, 48)), ((20, 70), (20, 72))):
                labels = torch.randint(3, (height, width), generator=torch.Generator().manual_seed(0))
                planes = one_hot(labels[None], num_classes=3)
                if name == "gan":  # one instance per class
                    style = paint_styles(labels, model.instance_styles(labels, labels, seed=0))
                    planes = torch.cat([planes, instance_edges(labels[None]), style[None]], dim=1)
                margins = [(0, 0), (0, 0), (0, padded[0] - height), (0, padded[1] - width)]
                with torch.no_grad():
                    drawn = model.generator(torch.from_numpy(np.pad(planes.numpy(), margins, mode="edge")))
                wanted = drawn[0, 1] if name == "crn" else drawn[0]
                found = model.draw(labels, labels, seed=0, output=1)
                torch.testing.assert_close(found, wanted[:, :height, :width].clamp(-1, 1))

    def test_noise_gives_every_instance_a_look_by_the_seed(self, fit_pix2pixhd, pairs, tmp_path):
        model = fit_pix2pixhd(pairs, tmp_path, steps=(4,), style="noise")
        labels = torch.zeros((32, 32), dtype=torch.int64)
        labels[8:20, 8:20] = 1
        one, again, other = (model.draw(labels, labels, seed=seed) for seed in (0, 0, 1))
        assert torch.equal(one, again)
        for region in (labels == 0, labels == 1):
            assert not torch.equal(one[:, region], other[:, region])

    def test_drawing_keeps_no_graph(self, fit_crn, fit_pix2pixhd, pairs, tmp_path):
        labels = torch.zeros((32, 32), dtype=torch.int64)
        for fit in (fit_crn, fit_pix2pixhd):
            model = fit(pairs, tmp_path / str(id(fit)), steps=(1,))
            model.generator.requires_grad_(True)
            assert not model.draw(labels, labels, seed=0).requires_grad

    def test_one_instance_s_look_does_not_depend_on_the_others(self, fit_pix2pixhd, pairs, tmp_path):
        model = fit_pix2pixhd(pairs, tmp_path, steps=(2,))
        labels, instances = torch.zeros(2, 32, 32, dtype=torch.int64)
        labels[4:12, 4:12], instances[4:12, 4:12] = 1, 7
        before = model.instance_styles(labels, instances, seed=5)
        labels[20:28, 20:28], instances[20:28, 20:28] = 2, 9
        after = model.instance_styles(labels, instances, seed=5)
        assert before.keys() == {0, 7}
        assert after.keys() == {0, 7, 9}
        for number, style in before.items():
            assert torch.equal(style, after[number])

    def test_the_bank_holds_every_class_that_has_instances(self, fit_pix2pixhd, crops, tmp_path):
        model = fit_pix2pixhd(crops, tmp_path, steps=(1,))
        assert model.bank.counts.tolist()[:2] == [0, 0]
        assert all(1 <= count <= 3 for count in model.bank.counts.tolist()[2:])
        model.bank.check_encoder(model.encoder)


class TestCropSource:
    def test_batches_have_holes_with_one_class_and_shrink_without_losing_thin_defects(self, crops):
        for shrink in (1, 4):
            batch = crops.draw(16, shrink=shrink, rng=np.random.default_rng(0))
            assert batch.image.shape == (16, 3, 32 // shrink, 32 // shrink)
            edges = set()
            for labels, hole in zip(batch.labels, batch.hole, strict=True):
                found = labels[hole[0] > 0].unique().tolist()
                assert len(found) == 1
                assert (labels[: 28 // shrink][hole[0, : 28 // shrink] == 0] == 1).all()
                edges.add(tuple(labels[-1].unique().tolist()))
            assert edges == {(0,), (1,)}  # two pictures show a rim of background
        normal = [labels.max() == 1 for labels in batch.labels]
        assert 0 < sum(normal) < 16

    def test_without_normals_all_are_defects(self):
        zeros = np.zeros((2, 1, 8, 8), np.uint8)
        source = CropSource(
            zeros.repeat(3, 1),
            zeros + 1,
            zeros,
            np.array([2, 2]),
            class_names=("background", "object", "a/b"),
            normal_share=0.9,
        )
        assert (source.draw(8, shrink=1, rng=np.random.default_rng(0)).labels == 2).all()
