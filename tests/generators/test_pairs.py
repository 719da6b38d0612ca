"""Folders of photos and layouts: found by name, colours snapped, ids checked, nothing lost on the way."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fastsynth.files import atomic_write
from fastsynth.images import encode_png
from generators.batches import components_of
from generators.pairs import PairFiles, PairSource, Palette, find_pairs, instance_ids

COLOURS = {"wall": (0, 48, 255), "door": (0, 207, 255), "shop": (174, 0, 0)}


def save(path: Path, pixels: np.ndarray) -> Path:
    atomic_write(path, encode_png(pixels))
    return path


def source(files: list[PairFiles], palette: Palette, **changes) -> PairSource:
    settings = {"load_size": 16, "crop_size": 16, "flip": False, "held_out": 0, "seed": 0}
    return PairSource(files, palette, **(settings | changes))


class TestFiles:
    def test_pairs_go_by_stem_and_every_one_without_a_partner_is_named(self, tmp_path):
        for stem in "abc":
            save(tmp_path / "photos" / f"{stem}.png", np.zeros((4, 4, 3), np.uint8))
        for stem in "acd":
            save(tmp_path / "layouts" / f"{stem}.png", np.zeros((4, 4), np.uint8))
        with pytest.raises(ValueError, match=r"the same stem; 1 of .*photos: b; 1 of .*layouts: d; add or remove"):
            find_pairs(tmp_path / "photos", tmp_path / "layouts", None)
        for number in range(25):
            (tmp_path / "photos" / f"{number:02}.png").touch()
        with pytest.raises(ValueError, match=r"26 of .*photos: 00, 01, .*, 19 and 6 more; 1 of .*layouts: d; add"):
            find_pairs(tmp_path / "photos", tmp_path / "layouts", None)
        for number in range(25):
            (tmp_path / "photos" / f"{number:02}.png").unlink()
        (tmp_path / "photos" / "b.png").unlink()
        (tmp_path / "layouts" / "d.png").unlink()
        found = find_pairs(tmp_path / "photos", tmp_path / "layouts", None)
        assert [(pair.photo.name, pair.layout.name) for pair in found] == [("a.png", "a.png"), ("c.png", "c.png")]

    def test_two_pictures_of_one_stem_are_refused(self, tmp_path):
        for name in ("a.png", "a.jpg", "b.png"):
            (tmp_path / name).touch()
        with pytest.raises(ValueError, match=r"a\.jpg and a\.png have one stem"):
            find_pairs(tmp_path, None, None)

    def test_missing_and_empty_folders_are_named(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="no such folder"):
            find_pairs(tmp_path / "photos", None, None)
        (tmp_path / "photos").mkdir()
        with pytest.raises(ValueError, match="holds no pictures"):
            find_pairs(tmp_path / "photos", None, None)


class TestPalette:
    def test_colours_that_jpeg_has_smeared_go_to_the_nearest(self):
        rng = np.random.default_rng(0)
        labels = rng.integers(0, 3, (20, 30))
        smeared = np.array(list(COLOURS.values()))[labels] + rng.integers(-25, 26, (20, 30, 3))
        found = Palette(COLOURS, ignore=None).labels(np.clip(smeared, 0, 255).astype(np.uint8), source=Path("x"))
        np.testing.assert_array_equal(found, labels)

    def test_grey_values_are_looked_up_and_unknown_ones_named(self):
        palette = Palette({"road": 7, "car": 26_001}, ignore=0)
        layout = np.array([[7, 26_001], [0, 7]], np.uint16)[..., None]
        np.testing.assert_array_equal(palette.labels(layout, source=Path("x")), [[0, 1], [255, 0]])
        with pytest.raises(ValueError, match=r"x.png: grey values 1, 8, 26002 belong to no class"):
            palette.labels(layout + np.uint16(1), source=Path("x.png"))

    def test_a_mixture_is_refused(self):
        with pytest.raises(ValueError, match="colours and grey values"):
            Palette({"a": 1, "b": (0, 0, 0)}, ignore=None)
        with pytest.raises(ValueError, match="colours and grey values"):
            Palette(COLOURS, ignore=0)

    def test_equal_values_are_refused(self):
        with pytest.raises(ValueError, match="a and c have the same value 1; change one"):
            Palette({"a": 1, "b": 2, "c": 1}, ignore=None)
        with pytest.raises(ValueError, match=r"door and data.ignore have the same value \(0, 207, 255\)"):
            Palette(COLOURS, ignore=COLOURS["door"])
        with pytest.raises(ValueError, match=r"a and data.ignore have the same value 0"):
            Palette({"a": 0}, ignore=0)

    def test_a_colour_is_ignored(self):
        layout = np.array([[COLOURS["door"], (255, 255, 255), (250, 250, 250)]], np.uint8)
        labels = Palette(COLOURS, ignore=(255, 255, 255)).labels(layout, source=Path("x"))
        assert labels.tolist() == [[1, 255, 255]]

    def test_colours_are_no_grey_values_but_indices_of_a_colour_table_are(self, tmp_path):
        palette = Palette({"road": 0, "car": 2}, ignore=None)
        with pytest.raises(ValueError, match=r"x.png is coloured, and data.classes holds grey values"):
            palette.labels(np.array([[(2, 0, 0)]], np.uint8), source=Path("x.png"))
        assert palette.labels(np.array([[(2, 2, 2)]], np.uint8), source=Path("x.png")).tolist() == [[1]]
        indices = np.array([[0, 2, 2], [2, 0, 0]], np.uint8)
        picture = Image.fromarray(indices, mode="P")
        picture.putpalette([2, 0, 0, 0, 0, 0, 0, 90, 90])
        picture.save(tmp_path / "table.png")
        assert palette.read(tmp_path / "table.png").tolist() == [[0, 1, 1], [1, 0, 0]]
        coloured = Palette({"road": (2, 0, 0), "car": (0, 90, 90)}, ignore=None)
        assert coloured.read(tmp_path / "table.png").tolist() == [[0, 1, 1], [1, 0, 0]]


class TestSource:
    @pytest.fixture
    def files(self, tmp_path) -> list[PairFiles]:
        """Photo left, layout right: the left half of the layout is wall, the right half door."""
        rng = np.random.default_rng(0)
        layout = np.where(np.arange(24)[None, :, None] < 12, COLOURS["wall"], COLOURS["door"]).astype(np.uint8)
        for number in range(5):
            photo = rng.integers(0, 256, (16, 24, 3), np.uint8)
            save(tmp_path / f"{number}.png", np.hstack([photo, layout.repeat(16, 0)]))
        return find_pairs(tmp_path, None, None)

    def test_one_picture_holds_photo_and_layout(self, files):
        from fastsynth.images import read_image

        batch = source(files, Palette(COLOURS, ignore=None)).samples(5, shrink=1)
        photo = read_image(files[0].photo)[:, 4:20]
        np.testing.assert_allclose((batch.image[0].movedim(0, -1) + 1) * 127.5, photo, atol=1e-3)
        assert batch.labels[0].tolist() == [[0] * 8 + [1] * 8] * 16
        assert batch.instances[0].tolist() == batch.labels[0].tolist()
        assert batch.hole is None

    def test_what_is_held_out_is_shown_and_never_drawn(self, files):
        held = source(files, Palette(COLOURS, ignore=None), held_out=2)
        assert len(held.training) == 3
        assert {*held.training, *held.shown} == {*files}
        shown = held.samples(2, shrink=1).image
        drawn = held.draw(40, shrink=1, rng=np.random.default_rng(0)).image
        centres = drawn[:, :, 4:12, 4:12].flatten(1)
        assert not any(torch.equal(row, other[:, 4:12, 4:12].flatten()) for row in centres for other in shown)
        with pytest.raises(ValueError, match="5 pairs, of which 5 are held out"):
            source(files, Palette(COLOURS, ignore=None), held_out=5)

    def test_crops_and_flips_keep_photo_and_layout_together(self, tmp_path):
        rng = np.random.default_rng(0)
        labels = rng.integers(0, 3, (24, 32))
        pixels = np.array(list(COLOURS.values()), np.uint8)[labels]
        save(tmp_path / "0.png", np.hstack([pixels, pixels]))
        files = find_pairs(tmp_path, None, None)
        batch = source(files, Palette(COLOURS, ignore=None), load_size=24, flip=True).draw(
            8, shrink=1, rng=np.random.default_rng(1)
        )
        seen = np.rint((batch.image.movedim(1, -1).numpy() + 1) * 127.5)
        np.testing.assert_array_equal(seen, np.array(list(COLOURS.values()))[batch.labels.numpy()])
        assert len({row.tobytes() for row in batch.labels.numpy()}) > 3

    @pytest.fixture
    def numbered(self, tmp_path) -> list[PairFiles]:
        """Of three shapes; a pixel's colour is its row, column and picture, its class goes by its column."""
        for number, (height, width) in enumerate([(16, 41), (35, 16), (16, 16)]):
            place = np.stack([*np.indices((height, width)), np.full((height, width), number)], axis=2)
            save(tmp_path / "photos" / f"{number}.png", place.astype(np.uint8))
            save(tmp_path / "layouts" / f"{number}.png", (place[..., 1] // 8).astype(np.uint8))
        return find_pairs(tmp_path / "photos", tmp_path / "layouts", None)

    def test_all_of_wide_and_high_pictures_is_in_few_crops(self, numbered):
        palette = Palette({str(i): i for i in range(6)}, ignore=None)
        batches = list(source(numbered, palette).every(shrink=1, batch_size=3))
        assert [len(batch.image) for batch in batches] == [3, 3, 1]
        images = np.concatenate([batch.image.movedim(1, -1).numpy() for batch in batches])
        places = np.rint((images + 1) * 127.5).astype(int)
        everywhere = {(*at, n) for n, shape in enumerate(((16, 41), (35, 16), (16, 16))) for at in np.ndindex(shape)}
        assert {*map(tuple, places.reshape(-1, 3).tolist())} == everywhere
        np.testing.assert_array_equal(np.concatenate([batch.labels for batch in batches]), places[..., 1] // 8)

    def test_of_each_training_picture_there_is_one_middle(self, numbered):
        palette = Palette({str(i): i for i in range(6)}, ignore=None)
        (batch,) = source(numbered, palette).middles(shrink=1, batch_size=8)
        corners = np.rint((batch.image[:, :, 0, 0].numpy() + 1) * 127.5)
        assert corners.tolist() == [[0, 12, 0], [9, 0, 1], [0, 0, 2]]

    def test_instance_files_are_read_at_16_bits_and_sizes_must_agree(self, tmp_path):
        photo = save(tmp_path / "photo.png", np.zeros((16, 16, 3), np.uint8))
        layout = save(tmp_path / "layout.png", np.zeros((16, 16), np.uint8))
        ids = np.full((16, 16), 33_001, np.uint16)
        ids[:8] = 33_002
        instances = save(tmp_path / "ids.png", ids)
        palette = Palette({"car": 0}, ignore=None)
        batch = source([PairFiles(photo, layout, instances)], palette).samples(1, shrink=1)
        assert batch.instances.unique().tolist() == [33_001, 33_002]
        small = save(tmp_path / "small.png", np.zeros((8, 16), np.uint8))
        with pytest.raises(ValueError, match="save the layout at the photo's size"):
            source([PairFiles(photo, small, None)], palette).samples(1, shrink=1)
        with pytest.raises(ValueError, match=r"small.png is \(8, 16\), its layout is \(16, 16\); save it at that size"):
            source([PairFiles(photo, layout, small)], palette).samples(1, shrink=1)

    def test_coloured_instance_files_are_ids_of_three_digits_to_the_base_256(self):
        picture = np.array([[[1, 0, 0], [1, 1, 0]], [[1, 1, 1], [255, 255, 255]]], np.uint8)
        assert instance_ids(picture).tolist() == [[1, 257], [65_793, 16_777_215]]
        assert instance_ids(picture[..., :1]).tolist() == [[1, 1], [1, 255]]

    def test_their_hash_is_that_of_names_and_contents(self, files, tmp_path):
        palette = Palette(COLOURS, ignore=None)
        whole = source(files, palette).sha256()
        assert source(find_pairs(tmp_path, None, None), palette, held_out=2, seed=3).sha256() == whole
        assert source(files[:4], palette).sha256() != whole
        (tmp_path / "4.png").rename(tmp_path / "5.png")
        assert source(find_pairs(tmp_path, None, None), palette).sha256() != whole
        (tmp_path / "5.png").rename(tmp_path / "4.png")
        save(tmp_path / "4.png", np.zeros((16, 48, 3), np.uint8))
        assert source(files, palette).sha256() != whole

    def test_a_smaller_batch_is_the_larger_one_scaled(self, files):
        at = source(files, Palette(COLOURS, ignore=None))
        large, small = (at.draw(3, shrink=shrink, rng=np.random.default_rng(2)) for shrink in (1, 2))
        torch.testing.assert_close(small.image, torch.nn.functional.avg_pool2d(large.image, 2), atol=0.01, rtol=0)
        assert torch.equal(small.labels, large.labels[:, 1::2, 1::2])


def test_components_are_regions_of_one_label():
    labels = np.array([[1, 1, 0, 1], [0, 0, 0, 0], [2, 2, 0, 1]])
    found = components_of(labels)
    groups = {}
    for label, number in zip(labels.ravel().tolist(), found.ravel().tolist(), strict=True):
        groups.setdefault(number, set()).add(label)
    assert sorted(map(tuple, groups.values())) == [(0,), (1,), (1,), (1,), (2,)]
    assert found[0, 0] == found[0, 1] != found[0, 3]
    assert found.min() == 0
