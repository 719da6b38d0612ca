"""Laws of the demo data: masks are where the surface visibly changed, and nowhere else did it change."""

from pathlib import Path

import numpy as np
import pytest

from fastsynth.data.datasets import open_dataset
from fastsynth.data.demo import CATEGORIES, SENSOR_NOISE, draw_normal, draw_pair, make_demo
from fastsynth.data.split import make_split
from fastsynth.files import sha256_folder
from fastsynth.images import read_image, read_mask

PAIRS = [(category, defect) for category, defects in CATEGORIES.items() for defect in defects]
SIZE = (96, 112)


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("demo")
    make_demo(root, seed=3, normals=2, defects_per_type=2, size=SIZE)
    return root


@pytest.mark.parametrize(("category", "defect"), PAIRS)
def test_outside_the_mask_a_defect_picture_is_its_clean_surface_bit_for_bit(category, defect):
    for index in range(3):
        clean, image, foreground = draw_pair(category, defect, size=SIZE, rng=np.random.default_rng([1, index]))
        changed = (clean != image).any(axis=2)
        assert not (changed & ~foreground).any()


@pytest.mark.parametrize(("category", "defect"), PAIRS)
def test_inside_the_mask_the_surface_visibly_differs(category, defect):
    for index in range(3):
        clean, image, foreground = draw_pair(category, defect, size=SIZE, rng=np.random.default_rng([2, index]))
        difference = np.abs(clean.astype(int) - image).max(axis=2)
        assert (difference[foreground] > 2 * SENSOR_NOISE).mean() > 0.5
        assert difference.max() > 8


@pytest.mark.parametrize(("category", "defect"), PAIRS)
def test_defects_are_small_against_the_picture_but_larger_than_a_speck(category, defect):
    for index in range(2):
        *_, foreground = draw_pair(category, defect, size=(256, 256), rng=np.random.default_rng([4, index]))
        assert 6 <= foreground.sum() < 0.25 * foreground.size


def test_scratches_are_thin_and_pits_small():
    rng = np.random.default_rng(5)
    scratches = [draw_pair("brushed_metal", "scratch", size=(256, 256), rng=rng)[2] for _ in range(4)]
    for foreground in scratches:
        rows, columns = np.nonzero(foreground)
        length = np.hypot(np.ptp(rows), np.ptp(columns))
        assert foreground.sum() / length < 16
    pits = [draw_pair("brushed_metal", "pit", size=(256, 256), rng=rng)[2] for _ in range(4)]
    assert max(foreground.sum() for foreground in pits) < 500


def test_the_same_seed_gives_the_same_files_and_another_seed_others(tree, tmp_path):
    for seed, equal in ((3, True), (4, False)):
        make_demo(tmp_path / str(seed), seed=seed, normals=2, defects_per_type=2, size=SIZE)
        assert (sha256_folder(tmp_path / str(seed)) == sha256_folder(tree)) is equal


def test_more_normals_do_not_change_the_defects(tree, tmp_path):
    make_demo(tmp_path, seed=3, normals=1, defects_per_type=2, size=SIZE)
    for folder in ("brushed_metal/test/pit", "woven_fabric/ground_truth/hole"):
        assert sha256_folder(tmp_path / folder) == sha256_folder(tree / folder)


def test_every_file_is_readable_and_every_defect_has_its_mask(tree):
    for category, defects in CATEGORIES.items():
        assert len(list((tree / category / "train" / "good").iterdir())) == 2
        assert len(list((tree / category / "test" / "good").iterdir())) == 2
        for defect in defects:
            for path in (tree / category / "test" / defect).iterdir():
                image = read_image(path)
                mask = read_mask(tree / category / "ground_truth" / defect / f"{path.stem}_mask.png")
                assert image.shape == (*SIZE, 1 if category == "brushed_metal" else 3)
                assert image.dtype == np.uint8
                assert mask.shape == SIZE
                assert mask.any()


def test_the_tree_is_a_data_set_that_can_be_split(tree):
    dataset = open_dataset(tree)
    assert dataset.categories == sorted(CATEGORIES)
    split = make_split(dataset, train_fraction=1 / 3, val_fraction=0.2, seed=0)
    assert len(split.train + split.val + split.test) == len(dataset.records)


def test_normal_pictures_differ_in_light_and_course():
    for category in CATEGORIES:
        images = [draw_normal(category, size=SIZE, rng=np.random.default_rng([6, i])) for i in range(6)]
        assert np.std([image.mean() for image in images]) > 1
        assert all(20 < image.mean() < 235 for image in images)
        assert not np.array_equal(images[0], images[1])


def test_impossible_demands_are_refused_in_one_line(tmp_path):
    with pytest.raises(ValueError, match="wanted at least 64×64"):
        make_demo(tmp_path, size=(32, 256))
    assert not list(tmp_path.iterdir())
