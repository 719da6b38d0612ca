import json
import unicodedata
from pathlib import Path

import pytest

from fastsynth.config import parse_config
from fastsynth.data.datasets import DataConfig, open_dataset, require_defects, require_outside


def test_an_mvtec_category_is_listed_with_its_masks(tiny_tree):
    dataset = open_dataset(tiny_tree)
    assert dataset.categories == ["tile"]
    assert dataset.defect_names("tile") == ["blob", "crack"]
    assert [len(dataset.normals), len(dataset.defects), len(dataset.orphan_masks)] == [14, 12, 0]
    assert {record.part for record in dataset.normals} == {"train", "test"}
    crack = next(record for record in dataset.defects if record.image == "test/crack/crack03.png")
    assert (crack.mask, crack.defect, crack.part) == ("ground_truth/crack/crack03_mask.png", "crack", "test")


def test_plain_folders_are_listed_with_masks_of_the_same_name(plain_folders):
    dataset = open_dataset(plain_folders)
    assert dataset.categories == ["plain parts"]
    assert [len(dataset.normals), len(dataset.defects)] == [10, 12]
    assert all(record.mask == record.image.replace("defects/", "masks/") for record in dataset.defects)
    assert {record.part for record in dataset.normals} == {"train"}


def test_a_folder_of_categories_is_listed_category_by_category(tiny_tree, tmp_path):
    root = tmp_path / "all"
    root.mkdir()
    tiny_tree.rename(root / "tile")
    (root / "wood" / "train" / "good").mkdir(parents=True)
    (root / "tile" / "train" / "good" / "train00.png").rename(root / "wood" / "train" / "good" / "a.png")
    (root / "notes").mkdir()
    assert open_dataset(root).categories == ["tile", "wood"]
    assert {record.image for record in open_dataset(root, categories=["wood"]).records} == {"wood/train/good/a.png"}
    with pytest.raises(ValueError, match="no category metal; it has tile, wood"):
        open_dataset(root, categories=["metal"])


def test_names_with_spaces_accents_and_capital_suffixes_find_their_masks(plain_folders):
    image = plain_folders / "defects" / "crack" / "crack00.png"
    image.rename(image.with_name(unicodedata.normalize("NFC", "Riß à l'été 1.v2.PNG")))
    mask = plain_folders / "masks" / "crack" / "crack00.png"
    mask.rename(mask.with_name(unicodedata.normalize("NFD", "Riß à l'été 1.v2_mask.Png")))
    dataset = open_dataset(plain_folders)
    (record,) = [record for record in dataset.defects if "1.v2" in record.image]
    assert record.mask is not None
    assert (plain_folders / record.mask).is_file()
    assert dataset.orphan_masks == ()


def test_hidden_files_other_suffixes_and_unknown_folders_are_ignored(tiny_tree):
    before = open_dataset(tiny_tree)
    source = (tiny_tree / "train" / "good" / "train00.png").read_bytes()
    for name in ("train/good/._train00.png", "train/good/notes.txt", "unlabelled/x.png", "test/.trash/x.png"):
        (tiny_tree / name).parent.mkdir(exist_ok=True)
        (tiny_tree / name).write_bytes(source)
    assert open_dataset(tiny_tree) == before


def test_missing_masks_are_none_and_masks_without_image_are_orphans(tiny_tree):
    (tiny_tree / "ground_truth" / "crack" / "crack00_mask.png").rename(tiny_tree / "ground_truth" / "crack" / "x.png")
    (tiny_tree / "test" / "blob").rename(tiny_tree / "test" / "stain")
    dataset = open_dataset(tiny_tree)
    unmasked = {record.image for record in dataset.defects if record.mask is None}
    assert unmasked == {"test/crack/crack00.png"} | {f"test/stain/blob{i:02d}.png" for i in range(6)}
    assert len(dataset.orphan_masks) == 7
    assert "ground_truth/crack/x.png" in dataset.orphan_masks


def test_groups_are_found_by_stem_at_the_root_and_in_a_category(tiny_tree):
    (tiny_tree / "groups.json").write_text(json.dumps({"crack00": "p1", "crack01": 2, "gone": "p1"}))
    for root in (tiny_tree, tiny_tree.parent):
        dataset = open_dataset(root, categories=["tile"])
        groups = {record.image.rpartition("/")[2]: dataset.group_of(record) for record in dataset.defects}
        assert groups["crack00.png"] is not None
        assert groups["crack00.png"].endswith("p1")
        assert groups["crack01.png"].endswith("2")
        assert groups["crack02.png"] is None


def test_two_categories_may_use_the_same_group_names(tiny_tree, tmp_path):
    second = tmp_path / "wood" / "train" / "good"
    second.mkdir(parents=True)
    (tiny_tree / "train" / "good" / "train00.png").rename(second / "train01.png")
    for category in ("tile", "wood"):
        (tmp_path / category / "groups.json").write_text(json.dumps({"train01": "1"}))
    dataset = open_dataset(tmp_path)
    groups = [dataset.group_of(record) for record in dataset.records if record.image.endswith("train01.png")]
    assert sorted(groups) == ["tile/1", "wood/1"]


@pytest.mark.parametrize("content", ['["a"]', '{"a": ["b"]}', "{"])
def test_a_bad_groups_file_is_named(tiny_tree, content):
    (tiny_tree / "groups.json").write_text(content)
    with pytest.raises(ValueError, match=r"groups\.json"):
        open_dataset(tiny_tree)


def test_wrong_paths_say_what_was_wanted(tmp_path):
    (tmp_path / "file.png").write_bytes(b"")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="no such folder; give the folder that holds train/good"):
        open_dataset(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="is a file"):
        open_dataset(tmp_path / "file.png")
    with pytest.raises(ValueError, match=r"wanted train/good .*, a folder of such categories, or normal with defects"):
        open_dataset(tmp_path / "empty")


@pytest.mark.parametrize("folder", ["train/good", "normal"])
def test_a_tree_without_normal_images_is_refused(tmp_path, folder):
    (tmp_path / folder).mkdir(parents=True)
    with pytest.raises(ValueError, match=f"no normal images; put some into .*{folder}"):
        open_dataset(tmp_path)


def test_a_tree_without_defects_is_refused_only_by_those_who_need_them(tiny_tree):
    require_defects(open_dataset(tiny_tree))
    for defect in ("blob", "crack"):
        for image in (tiny_tree / "test" / defect).iterdir():
            image.unlink()
    dataset = open_dataset(tiny_tree)
    assert dataset.defects == ()
    with pytest.raises(ValueError, match="category tile has no defect images"):
        require_defects(dataset)


def test_the_config_takes_a_root_and_categories():
    config = parse_config(DataConfig, {"root": "x/y", "categories": ["tile"]}, source="test")
    assert config == DataConfig(root=Path("x/y"), categories=["tile"])


def link_out(tree: Path, name: str) -> Path:
    """Moves `name` out of the tree and puts a link in its place; returns where it is now."""
    outside = tree.parent / "outside" / name
    outside.parent.mkdir(parents=True)
    (tree / name).rename(outside)
    (tree / name).symlink_to(outside)
    return outside


@pytest.mark.parametrize("name", ["train", "train/good", "test/crack", "test/blob/blob00.png", "ground_truth/crack"])
def test_a_link_out_of_the_data_is_refused_unless_asked_for(tiny_tree, name):
    before = open_dataset(tiny_tree)
    outside = link_out(tiny_tree, name)
    with pytest.raises(ValueError, match=r"is a link out of the data, to .*data\.follow_links") as caught:
        open_dataset(tiny_tree)
    assert str(tiny_tree / name) in str(caught.value)
    assert str(outside) in str(caught.value)
    assert open_dataset(tiny_tree, follow_links=True) == before


def test_links_inside_the_data_and_a_root_that_is_a_link_are_read(tiny_tree, tmp_path):
    (tiny_tree / "train" / "good" / "again.png").symlink_to(tiny_tree / "train" / "good" / "train00.png")
    (tmp_path / "link").symlink_to(tiny_tree)
    assert len(open_dataset(tmp_path / "link").normals) == 15


def test_a_whole_category_that_is_a_link_out_is_refused(tiny_tree, tmp_path):
    (tmp_path / "all").mkdir()
    (tmp_path / "all" / "tile").symlink_to(tiny_tree)
    with pytest.raises(ValueError, match=r"all/tile is a link out of the data"):
        open_dataset(tmp_path / "all")


def test_two_kinds_of_trees_in_one_folder_are_refused(tiny_tree):
    (tiny_tree / "normal").mkdir()
    with pytest.raises(ValueError, match=r"holds both train/good and normal; keep one kind of tree"):
        open_dataset(tiny_tree)


@pytest.mark.parametrize("inside", ["train/good", "test/crack/run", "ground_truth", "test"])
def test_an_output_among_the_pictures_is_refused(tiny_tree, inside):
    dataset = open_dataset(tiny_tree)
    with pytest.raises(ValueError, match=r"lies in the data, in .*; choose a folder outside"):
        require_outside(dataset, tiny_tree / inside)
    require_outside(dataset, tiny_tree / "runs")
    require_outside(dataset, tiny_tree.parent / "train")
