"""Laws of the training views: every one shows its defect, picture and mask turn together, all types get their share."""

import numpy as np
import pytest
import torch

from fastsynth.diffusion.conditioning import NORMAL, DefectTokens
from fastsynth.diffusion.views import EncodedViews, View, defect_views, encode_views, normal_views
from fastsynth.layouts.exemplar import Exemplar
from fastsynth.layouts.poses import ALL_POSES, Poses

SIZE = 32
TOKENS = DefectTokens([["tile", "crack"], ["tile", "dent"]], num_tokens=2, cross_attention_dim=8)


def exemplar(box, *, shape=(100, 100), defect="dent", dtype=np.uint8, channels=3, source="") -> Exemplar:
    """Grey noise with a white box on it, which is the defect."""
    x0, y0, x1, y1 = box
    foreground = np.zeros(shape, bool)
    foreground[y0:y1, x0:x1] = True
    image = np.random.default_rng(0).integers(80, 120, (*shape, channels)).astype(dtype)
    image[foreground] = 250
    return Exemplar(image, foreground, "tile", defect, source)


def views_of(*exemplars, count=40, seed=0, context=2.0, poses=ALL_POSES) -> list[View]:
    rng = np.random.default_rng(seed)
    return list(defect_views(exemplars, count=count, size=SIZE, context=context, poses=poses, rng=rng))


def normals(image, *, box=(30, 30, 50, 40), count=20) -> list[View]:
    exemplars, rng = [exemplar(box)], np.random.default_rng(0)
    options = {"count": count, "size": SIZE, "context": 2.0, "poses": ALL_POSES}
    return list(normal_views(lambda i: (image, "tile"), 1, exemplars, **options, rng=rng))


class TestDefectViews:
    @pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
    @pytest.mark.parametrize("channels", [1, 3])
    def test_shapes_and_ranges(self, dtype, channels):
        for view in views_of(exemplar((30, 30, 50, 45), dtype=dtype, channels=channels), count=8):
            assert view.picture.shape == (3, SIZE, SIZE)
            assert view.picture.dtype == np.float32
            assert np.abs(view.picture).max() <= 1
            assert view.mask_image.shape == (1, SIZE, SIZE)
            assert set(np.unique(view.mask_image)) <= {0, 1}
            assert (view.category, view.defect) == ("tile", "dent")

    @pytest.mark.parametrize("context", [1.1, 2.0, 4.0])
    @pytest.mark.parametrize(
        "box", [(0, 10, 2, 90), (98, 10, 100, 60), (10, 0, 70, 1), (0, 0, 1, 1), (20, 20, 60, 60), (0, 0, 100, 100)]
    )
    def test_the_whole_defect_is_in_every_view(self, box, context):
        x0, y0, x1, y1 = box
        for view in views_of(exemplar(box), context=context):
            rows, columns = np.nonzero(view.mask_image[0])
            assert len(rows) > 0
            extent = sorted((np.ptp(rows) + 1, np.ptp(columns) + 1))
            short, long = sorted((y1 - y0, x1 - x0))
            assert extent[1] / extent[0] == pytest.approx(long / short, rel=0.5 + 2 / extent[0])

    def test_picture_and_mask_turn_together(self):
        for view in views_of(exemplar((30, 30, 60, 40))):
            inside = view.mask_image[0] > 0
            assert view.picture[:, inside].mean() > view.picture[:, ~inside].mean() + 0.3

    @pytest.mark.parametrize(
        ("turns", "flip", "corners"),
        [((0,), False, {0}), ((0,), True, {0, 1, 2, 3}), ((0, 2), False, {0, 3}), ((0, 1, 2, 3), True, {0, 1, 2, 3})],
    )
    def test_only_the_asked_poses_are_shown(self, turns, flip, corners):
        """An L, told by the corner it lacks (upper left first, row by row) and by its longer leg."""
        hook = exemplar((40, 30, 44, 70))
        hook.foreground[66:70, 40:60] = True
        seen, upright = set(), set()
        for view in views_of(hook, poses=Poses(turns, flip=flip)):
            rows, columns = np.nonzero(view.mask_image[0])
            box = view.mask_image[0, rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
            quarters = [half for rows in np.array_split(box, 2) for half in np.array_split(rows, 2, axis=1)]
            seen.add(int(np.argmin([quarter.sum() for quarter in quarters])))
            upright.add(box.shape[0] > box.shape[1])
        assert seen == {{0: 1, 1: 0, 2: 3, 3: 2}[corner] for corner in corners}
        assert upright == ({True, False} if 1 in turns else {True})

    def test_views_differ_in_place_zoom_turn_and_tone(self):
        views = views_of(exemplar((30, 30, 60, 40)), count=60)
        assert len({view.mask_image.sum() for view in views}) > 5
        assert len({view.mask_image.tobytes() for view in views}) > 40
        assert np.std([view.picture.mean() for view in views]) > 0.05

    def test_every_type_and_every_example_gets_its_turn(self):
        bright = [exemplar((30 + i, 30, 50 + i, 40), defect="dent", source=str(i)) for i in range(5)]
        views = views_of(*bright, exemplar((30, 30, 40, 60), defect="crack"), count=20)
        assert [view.defect for view in views].count("dent") == 10
        assert [view.defect for view in views].count("crack") == 10

    def test_a_type_with_more_examples_than_its_share_shows_each_once(self):
        many = [exemplar((30, 30, 50, 40), source=str(i)) for i in range(7)]
        assert len(views_of(*many, count=2)) == 7

    def test_all_parts_of_a_defect_are_visited(self):
        both = exemplar((5, 5, 12, 10))
        both.foreground[85:88, 60:95] = True
        widths = {np.ptp(np.nonzero(view.mask_image[0])).item() for view in views_of(both, count=30)}
        shapes = [view.mask_image.sum() for view in views_of(both, count=30)]
        assert len(widths) > 1
        assert max(shapes) > 2 * min(shapes)

    def test_the_same_rng_gives_the_same_views(self):
        for first, second in zip(
            views_of(exemplar((30, 30, 50, 40))), views_of(exemplar((30, 30, 50, 40))), strict=True
        ):
            np.testing.assert_array_equal(first.picture, second.picture)
            np.testing.assert_array_equal(first.mask_image, second.mask_image)


class TestNormalViews:
    def test_they_borrow_masks_and_are_called_normal(self):
        views = normals(np.full((80, 90, 3), 128, np.uint8))
        assert len(views) == 20
        assert {(view.category, view.defect) for view in views} == {("tile", NORMAL)}
        assert all(view.mask_image.any() for view in views)
        assert len({view.mask_image.tobytes() for view in views}) > 10

    def test_a_mask_larger_than_the_image_is_cut_to_it(self):
        views = normals(np.full((40, 30, 1), 128, np.uint8), box=(0, 0, 100, 90))
        assert all(view.mask_image.any() for view in views)

    def test_normals_are_read_by_index(self):
        asked = []

        def read(index: int):
            asked.append(index)
            return np.full((60, 60, 3), 128, np.uint8), "tile"

        rng = np.random.default_rng(0)
        options = {"count": 30, "size": SIZE, "context": 2.0, "poses": ALL_POSES}
        views = normal_views(read, 4, [exemplar((30, 30, 50, 40))], **options, rng=rng)
        assert len(list(views)) == 30
        assert set(asked) == {0, 1, 2, 3}


class TestEncoding:
    def test_latents_masks_and_rows_stay_together(self, pipeline):
        views = views_of(exemplar((30, 30, 50, 40)), exemplar((30, 30, 33, 60), defect="crack"), count=10)
        views += normals(np.full((60, 60, 3), 128, np.uint8), count=3)
        encoded = encode_views(iter(views), pipeline, total=len(views), batch_size=4)
        assert len(encoded) == 13
        assert encoded.latents.shape == (13, 4, 4, 4)
        assert encoded.mask_images.dtype == torch.uint8
        assert encoded.rows.tolist() == [TOKENS.index(view.category, view.defect) for view in views]
        picks = np.array([11, 2, 2])
        latents, masks, rows = encoded.batch(picks)
        for i, pick in enumerate(picks):
            with torch.no_grad():
                picture, mask = (torch.from_numpy(a)[None] for a in (views[pick].picture, views[pick].mask_image))
                alone = pipeline.training_latents(picture, mask)[0]
            torch.testing.assert_close(latents[i], alone, atol=1e-5, rtol=1e-4)
            np.testing.assert_array_equal(masks[i].numpy(), views[pick].mask_image)
        assert masks.dtype == torch.float32
        assert rows.tolist() == [TOKENS.index("tile", NORMAL), *[encoded.rows[2]] * 2]

    def test_saved_views_are_loaded_as_they_were(self, pipeline, tmp_path):
        views = views_of(exemplar((30, 30, 50, 40)), count=3)
        encoded = encode_views(iter(views), pipeline, total=3)
        encoded.save(tmp_path / "views.safetensors")
        loaded = EncodedViews.load(tmp_path / "views.safetensors")
        for name, value in vars(encoded).items():
            assert torch.equal(getattr(loaded, name), value)
