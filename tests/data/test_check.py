import json
import shutil
import warnings
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from fastsynth.data.check import Problem, check_dataset
from fastsynth.data.datasets import open_dataset
from fastsynth.data.split import Split, make_split
from fastsynth.images import encode_png

CRACK = "test/crack/crack00.png"
MASK = "ground_truth/crack/crack00_mask.png"


def check(root: Path, split: Split | None = None) -> list[tuple[str, str]]:
    problems = check_dataset(open_dataset(root), split)
    assert all(isinstance(problem, Problem) and "\n" not in problem.message for problem in problems)
    assert all(";" in problem.message for problem in problems), "every message says what to do"
    return [(problem.path, problem.kind) for problem in problems]


def test_a_sound_tree_has_no_problems_in_either_layout(tiny_tree, plain_folders):
    assert check(plain_folders) == []


def test_a_sound_tree_and_its_split_have_no_problems(tiny_tree):
    dataset = open_dataset(tiny_tree)
    split = make_split(dataset, train_fraction=1 / 3, val_fraction=0.2, seed=0)
    assert check_dataset(dataset, split) == []


@pytest.mark.filterwarnings("ignore:pictures with an alpha channel")
def test_every_ordinary_kind_of_picture_is_sound(tiny_tree):
    rng = np.random.default_rng(0)
    good = tiny_tree / "train" / "good"
    grey = rng.integers(0, 65535, (40, 48), np.uint16)
    rgb = rng.integers(0, 255, (40, 48, 3), np.uint8)
    cv2.imwrite(str(good / "grey 16 bit.png"), grey)
    cv2.imwrite(str(good / "grau 16 bit.tiff"), grey)
    Image.fromarray(rgb).save(good / "rgb.jpg")
    Image.fromarray(rgb).save(good / "rgb.bmp")
    Image.fromarray(rgb).convert("RGBA").save(good / "alpha é.png")
    Image.fromarray(rgb).convert("P").save(good / "palette.png")
    mask = Image.open(tiny_tree / MASK).convert("P")
    mask.save(tiny_tree / MASK)
    assert check(tiny_tree) == []


def test_what_is_not_read_is_told_and_does_no_harm(tiny_tree):
    (tiny_tree / "train" / "good" / "picture.gif").write_bytes(b"GIF89a")
    (tiny_tree / "train" / "good" / "later").mkdir()
    (tiny_tree / "train" / "good" / "Thumbs.db").write_bytes(b"")
    (tiny_tree / "train" / "good" / ".hidden").write_bytes(b"")
    (tiny_tree / "test" / "dent").mkdir()
    (tiny_tree / "test" / "dent" / "raw.heic").write_bytes(b"")
    assert check(tiny_tree) == [("test/dent", "not_read"), ("train/good", "not_read")]
    found = check_dataset(open_dataset(tiny_tree))
    assert found[1].message.startswith(
        "later and 1 more is not read; pictures lie in the folder itself and end in .bmp"
    )
    assert all(problem.harmless for problem in found)


def test_two_images_of_one_name_are_told(tiny_tree):
    pixels = cv2.imread(str(tiny_tree / CRACK))
    pixels[:8] = 255 - pixels[:8]
    cv2.imwrite(str((tiny_tree / CRACK).with_suffix(".bmp")), pixels)
    assert check(tiny_tree) == [(CRACK, "same_name")]


def test_webp_is_read(tiny_tree):
    pixels = np.random.default_rng(0).integers(0, 255, (40, 48, 3), np.uint8)
    cv2.imwrite(str(tiny_tree / "train" / "good" / "browser.webp"), pixels)
    assert check(tiny_tree) == []
    assert "train/good/browser.webp" in {record.image for record in open_dataset(tiny_tree).records}


@pytest.mark.parametrize("quality", [50, 95])
@pytest.mark.parametrize("share", [0.3, 0.7, 0.99])
def test_truncated_pictures_are_unreadable(tiny_tree, share, quality):
    path = tiny_tree / "train" / "good" / "cut.jpg"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(path, quality=quality)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    png = tiny_tree / CRACK
    png.write_bytes(png.read_bytes()[: int(png.stat().st_size * share)])
    assert check(tiny_tree) == [(CRACK, "unreadable"), ("train/good/cut.jpg", "unreadable")]


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_a_picture_with_damaged_bytes_is_unreadable(tiny_tree, suffix):
    path = tiny_tree / "train" / "good" / f"damaged{suffix}"
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 48, 3), np.uint8))
    picture.save(path, compression="tiff_adobe_deflate")  # PNG has no such option and ignores it
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 40] = bytes(40)
    path.write_bytes(data)
    assert check(tiny_tree) == [(f"train/good/damaged{suffix}", "unreadable")]


def test_a_picture_that_is_text_or_cmyk_is_unreadable(tiny_tree):
    good = tiny_tree / "train" / "good"
    (good / "text.png").write_text("not a picture")
    (good / "empty.tif").write_bytes(b"")
    Image.new("CMYK", (40, 40)).save(good / "cmyk.jpg")
    assert check(tiny_tree) == [(f"train/good/{name}", "unreadable") for name in ("cmyk.jpg", "empty.tif", "text.png")]


def test_a_tiny_picture_is_too_small(tiny_tree):
    (tiny_tree / "train" / "good" / "dot.png").write_bytes(encode_png(np.zeros((1, 1, 1), np.uint8)))
    (tiny_tree / "train" / "good" / "flat.png").write_bytes(encode_png(np.zeros((15, 400, 1), np.uint8)))
    assert check(tiny_tree) == [("train/good/dot.png", "too_small"), ("train/good/flat.png", "too_small")]


@pytest.mark.parametrize(
    ("pixels", "kind"),
    [
        (np.zeros((40, 48), np.uint8), "empty_mask"),
        (np.pad(np.full((8, 8), 255, np.uint8), ((20, 20), (16, 16))), "wrong_size"),
        (255 - np.pad(np.full((8, 8), 255, np.uint8), ((16, 16), (20, 20))), "mostly_marked"),
        (np.full((40, 48), 255, np.uint8), "mostly_marked"),
        (np.arange(40 * 48, dtype=np.uint16).reshape(40, 48).astype(np.uint8), "not_binary"),
    ],
)
def test_bad_masks_are_named(tiny_tree, pixels, kind):
    (tiny_tree / MASK).write_bytes(encode_png(pixels))
    assert check(tiny_tree) == [(MASK, kind)]


@pytest.mark.filterwarnings("ignore:pictures with an alpha channel")
def test_masks_whose_shape_lies_in_alpha_or_in_a_colour_table_are_named(tiny_tree):
    shape = np.asarray(Image.open(tiny_tree / MASK).convert("L"))
    white = np.full_like(shape, 255)
    Image.fromarray(np.dstack([white, white, white, shape])).save(tiny_tree / MASK)
    assert check(tiny_tree) == [(MASK, "mostly_marked")]
    table = Image.fromarray((shape > 0).astype(np.uint8), "P")
    table.putpalette([255, 255, 255, 255, 0, 0])
    table.save(tiny_tree / MASK)
    assert check(tiny_tree) == [(MASK, "mostly_marked")]


def test_a_tree_without_defects_is_a_problem(tiny_tree):
    shutil.rmtree(tiny_tree / "test" / "crack")
    shutil.rmtree(tiny_tree / "ground_truth")
    for folder in (tiny_tree / "test").iterdir():
        if folder.name != "good":
            shutil.rmtree(folder)
    assert check(tiny_tree) == [(".", "too_few")]


def test_a_mask_of_zeros_and_ones_is_sound(tiny_tree):
    (tiny_tree / MASK).write_bytes(encode_png(np.eye(40, 48, dtype=np.uint8)))
    assert check(tiny_tree) == []


def test_an_unreadable_mask_is_named(tiny_tree):
    (tiny_tree / MASK).write_bytes(b"\x89PNG")
    assert check(tiny_tree) == [(MASK, "unreadable")]


def test_masks_and_images_that_have_no_partner_are_named(tiny_tree):
    (tiny_tree / MASK).rename(tiny_tree / "ground_truth" / "crack" / "other.png")
    assert check(tiny_tree) == [("ground_truth/crack/other.png", "mask_without_image"), (CRACK, "image_without_mask")]


def test_a_groups_file_that_names_no_image_is_named(tiny_tree):
    (tiny_tree / "groups.json").write_text(json.dumps({"crack00.png": "p1"}))
    assert check(tiny_tree) == [("groups.json", "unused_groups")]


def test_what_no_longer_fits_the_split_is_named(tiny_tree):
    split = make_split(open_dataset(tiny_tree), train_fraction=1 / 3, val_fraction=0.2, seed=0)
    tested = next(image for image in split.test if "good" in image)
    learnt = next(image for image in split.train if "good" in image)
    (tiny_tree / learnt).write_bytes((tiny_tree / tested).read_bytes())
    (tiny_tree / "train" / "good" / "new.png").write_bytes(encode_png(np.zeros((40, 48, 3), np.uint8)))
    problems = check(tiny_tree, split)
    assert (learnt, "stale_split") in problems
    assert ("train/good/new.png", "stale_split") in problems
    assert [path for path, kind in problems if kind == "duplicate_across_parts"] == [max(learnt, tested)]


def test_checking_makes_no_warnings(tiny_tree):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert check(tiny_tree) == []
