"""Laws of the audit: a sound store passes, and every kind of damage is found and named."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fastsynth.data.split import Split
from fastsynth.data.store import Store
from fastsynth.files import atomic_write, sha256_bytes, sha256_file
from fastsynth.images import encode_png, read_image
from fastsynth.quality.audit import _Sources, audit
from fastsynth.types import Instance, Layout, Sample

IDENTITY = {
    "config_sha256": "c",
    "model_sha256": None,
    "data_sha256": "d",
    "run_seed": 7,
    "version": "0.1.0",
    "defects": ["pit", "scratch"],
}
SOURCES = ("plate/train/good/000.png", "plate/train/good/001.png")
REAL = ("plate/test/scratch/000.png", "plate/test/scratch/001.png", "plate/test/good/000.png")
SHAPES = ("plate/ground_truth/scratch/000_mask.png", "plate/ground_truth/scratch/001_mask.png")


@pytest.fixture
def data_root(tmp_path: Path) -> Path:
    return make_data(tmp_path / "data")


def make_data(root: Path, *, channels: int = 1) -> Path:
    rng = np.random.default_rng(0)
    for name in (*SOURCES, *REAL):
        atomic_write(root / name, encode_png(rng.integers(0, 60000, (24, 32, channels)).astype(np.uint16)))
    for name in SHAPES:
        mask = np.where(rng.random((24, 32)) < 0.2, 255, 0).astype(np.uint8)
        atomic_write(root / name, encode_png(mask))
    return root


@pytest.fixture
def store(tmp_path: Path, data_root: Path) -> Path:
    return make_store(tmp_path / "store", data_root)


def make_store(folder: Path, data_root: Path) -> Path:
    """Three samples: two of one class from either source, and one of two classes."""
    with Store.open(folder, identity=IDENTITY) as writer:
        for sample_id, (source, defects) in enumerate(
            [(SOURCES[0], ["scratch"]), (SOURCES[1], ["scratch"]), (SOURCES[0], ["pit", "scratch"])]
        ):
            background = read_image(data_root / source)
            instances = tuple(
                Instance(n, defect, np.ones((4, 5), bool), 6 * n, 3 * n, shape_source=SHAPES[0])
                for n, defect in enumerate(defects, start=1)
            )
            layout = Layout(background, source, "plate", instances)
            image = np.where(layout.foreground[..., None], background + 100, background).astype(np.uint16)
            mask = layout.foreground.astype(np.uint8) * 255
            sample = Sample(image, mask, layout, seed=100 + sample_id, renderer="brighter")
            sha256 = sha256_file(data_root / source)
            writer.write(sample_id, sample, category="plate", source_sha256=sha256, extra={})
        writer.seal()
    return folder


def make_split(data_root: Path, *, test: tuple[str, ...]) -> Split:
    images = (*SOURCES, *REAL)
    train = tuple(sorted(set(images) - set(test)))
    return Split(train=train, val=(), test=test, seed=0, sha256={i: sha256_file(data_root / i) for i in images})


def read_lines(store: Path) -> list[dict[str, Any]]:
    return [json.loads(raw) for raw in (store / "manifest.jsonl").read_text().splitlines()]


def write_lines(store: Path, lines: list[dict[str, Any]]) -> None:
    (store / "manifest.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def edit_line(store: Path, index: int, **values: Any) -> None:
    lines = read_lines(store)
    lines[index] |= values
    write_lines(store, lines)


def edit_file(store: Path, index: int, key: str, change: Callable[[np.ndarray], np.ndarray]) -> None:
    """Change a picture and make its recorded hash fit, so that only the picture can give it away."""
    line = read_lines(store)[index]
    data = encode_png(change(read_image(store / line[key])))
    (store / line[key]).write_bytes(data)
    edit_line(store, index, **{f"{key}_sha256": sha256_bytes(data)})


def flip_first(image: np.ndarray) -> np.ndarray:
    image = image.copy()
    image[0, 0] ^= 1
    return image


def test_categories_that_the_split_is_not_of_are_no_concern(store, data_root):
    (data_root / "unfinished" / "train" / "good").mkdir(parents=True)
    assert audit(store, data_root=data_root, split=make_split(data_root, test=REAL)).problems != []
    assert audit(store, data_root=data_root, split=make_split(data_root, test=REAL[1:])).problems == []


def test_a_sound_store_has_no_problems(store, data_root):
    report = audit(store, data_root=data_root, split=make_split(data_root, test=REAL[1:]))
    assert report.problems == []
    assert report.samples == 3
    assert report.median_changed_share == 1.0


PICTURE_DAMAGE = {
    "1 pixels changed outside the mask": ("image", flip_first),
    "image is uint8": ("image", lambda image: (image >> 8).astype(np.uint8)),
    r"image is uint16 \(24, 31, 1\)": ("image", lambda image: image[:, 1:]),
    r"image is uint16 \(24, 32, 3\)": ("image", lambda image: np.repeat(image, 3, axis=2)),
    r"mask is uint8 \(24, 32, 3\)": ("mask", lambda mask: np.repeat(mask, 3, axis=2)),
    r"mask is uint16": ("mask", lambda mask: mask.astype(np.uint16)),
    r"mask is uint8 \(23, 32, 1\)": ("mask", lambda mask: mask[1:]),
    r"mask holds the values \[0, 128, 255\]": ("mask", lambda mask: mask - 127 * (np.indices(mask.shape)[0] == 3)),
    "mask is empty": ("mask", lambda mask: mask * 0),
    "the instances cover": ("mask", lambda mask: np.roll(mask, 1, axis=1)),
}


@pytest.mark.parametrize("message", PICTURE_DAMAGE)
def test_a_changed_picture_is_found_though_its_hash_fits(store, data_root, message):
    key, change = PICTURE_DAMAGE[message]
    edit_file(store, 0, key, lambda picture: change(picture).astype(change(picture).dtype))
    assert_found(store, data_root, rf"^000000: {message}")


@pytest.mark.parametrize("channel", range(3))
def test_a_change_of_one_channel_by_one_is_found(channel, tmp_path):
    def change(image: np.ndarray) -> np.ndarray:
        image = image.copy()
        image[0, 0, channel] ^= 1
        return image

    root = make_data(tmp_path / "data", channels=3)
    store = make_store(tmp_path / "store", root)
    assert audit(store, data_root=root, split=None).problems == []
    edit_file(store, 0, "image", change)
    (problem, *_) = audit(store, data_root=root, split=None).problems
    assert problem == "000000: 1 pixels changed outside the mask"


def test_a_share_just_above_the_least_is_enough(store, data_root):
    inside = np.argwhere(read_image(store / read_lines(store)[0]["mask"])[..., 0] > 0)
    source = read_image(data_root / SOURCES[0])
    for count, said in ((4, "only 20.0% of the mask changed"), (5, None)):
        image = source.copy()
        image[tuple(inside[:count].T)] += 100
        edit_file(store, 0, "image", lambda _, image=image: image)
        lines = read_lines(store)
        lines[0]["checks"]["changed_share"] = count / 20
        write_lines(store, lines)
        found = audit(store, data_root=data_root, split=None).problems
        assert [said in problem for problem in found] == [True] if said else found == []


def test_an_unchanged_inside_is_found(store, data_root):
    edit_file(store, 1, "image", lambda _: read_image(data_root / SOURCES[1]))
    assert_found(store, data_root, r"^000001: only 0.0% of the mask changed")
    assert_found(store, data_root, r"^000001: changed_share is recorded as 1.0, it is 0.0000")


FIRST = {
    "id": "000000",
    "image": "plate/train/scratch/000000.png",
    "mask": "plate/ground_truth/scratch/000000_mask.png",
}
INSTANCE = {"id": 1, "defect": "scratch", "bbox": [6, 3, 11, 7], "area": 20}
CHECKS = {"outside_unchanged": True, "changed_share": 1.0, "gate": None}
LINE_DAMAGE: dict[str, dict[str, Any]] = {
    "^000000: id appears twice": FIRST,
    "^000001: seed 100 appears twice": {"seed": 100},
    "^000001: image_sha256 differs from the file plate/train": {"image_sha256": "0"},
    "^000001: mask_sha256 differs from the file plate/ground": {"mask_sha256": "0"},
    "^000001: source_sha256 differs from the file plate/train": {"source_sha256": "0"},
    "^000001: source file plate/train/good/777.png is missing": {"source_image": "plate/train/good/777.png"},
    r"jsonl:2: image is '\.\./x\.png'; wanted plate/train/scratch/000001.png": {"image": "../x.png"},
    r"jsonl:2: mask is 'plate.*'; wanted plate/ground_truth": {"mask": "plate\\x.png"},
    "jsonl:2: source_image is '/etc/passwd'; wanted a relative path": {"source_image": "/etc/passwd"},
    "jsonl:2: category is '../../x'; wanted a plain folder name": {"category": "../../x"},
    "jsonl:2: image is .*; wanted plat/train": {"category": "plat"},
    "jsonl:2: id is 3; wanted a text of six digits": {"id": 3},
    r"jsonl:2: id is '\.\./000001'": {"id": "../000001"},
    "^000001: version is '9', the store was made with '0.1.0'": {"version": "9"},
    "^000001: config_sha256 is 'x'": {"config_sha256": "x"},
    "^000001: defect is 'scratch', its instances say 'pit'": {"instances": [INSTANCE | {"defect": "pit"}]},
    r"jsonl:2: instances is \[\]; wanted a list of at least one": {"instances": []},
    "^000001: .* do not fit a mask of 20 pixels": {"instances": [INSTANCE | {"area": 5}]},
    "jsonl:2: area is 21; wanted a whole number of 1 to 20": {"instances": [INSTANCE | {"area": 21}]},
    r"jsonl:2: bbox is \[1, 2\]; wanted four whole numbers": {"instances": [INSTANCE | {"bbox": [1, 2]}]},
    "^000001: outside_unchanged is recorded as False": {"checks": CHECKS | {"outside_unchanged": False}},
    "^000001: changed_share is recorded as 0.5": {"checks": CHECKS | {"changed_share": 0.5}},
    "jsonl:2: a number is not finite": {"checks": CHECKS | {"changed_share": float("nan")}},
    "jsonl:2: checks is 3; wanted outside_unchanged": {"checks": 3},
}


@pytest.mark.parametrize("message", LINE_DAMAGE)
def test_a_changed_line_is_found(store, data_root, message):
    edit_line(store, 1, **LINE_DAMAGE[message])
    assert_found(store, data_root, message)


def test_a_missing_key_and_a_broken_line_are_found(store, data_root):
    lines = read_lines(store)
    del lines[0]["renderer"]
    write_lines(store, lines)
    with (store / "manifest.jsonl").open("a") as manifest:
        manifest.write('{"id": "0000')
    assert_found(store, data_root, r"manifest\.jsonl:1: keys missing: renderer")
    assert_found(store, data_root, r"manifest\.jsonl:4: not a manifest line")


def test_damaged_pictures_are_found(store, data_root):
    line = read_lines(store)[0]
    (store / line["image"]).write_bytes(b"no picture")
    edit_line(store, 0, image_sha256=sha256_bytes(b"no picture"))
    assert_found(store, data_root, "000000: image is not a readable picture")


def test_a_picture_of_another_kind_or_without_its_end_is_not_read(store, data_root):
    line = read_lines(store)[0]
    whole = (store / line["image"]).read_bytes()
    wide = whole[:16] + (2**31 + 1).to_bytes(4, "big") * 2 + whole[24:]
    for data in (b"X" + whole[1:], whole[:12] + b"IHDX" + whole[16:], whole[:-16] + bytes(16), whole + bytes(99), wide):
        (store / line["image"]).write_bytes(data)
        edit_line(store, 0, image_sha256=sha256_bytes(data))
        assert audit(store, data_root=data_root, split=None).problems == ["000000: image is not a readable picture"]


def test_an_unreadable_source_or_mask_is_named(store, data_root):
    (data_root / SOURCES[1]).write_bytes(b"no picture")
    edit_line(store, 1, source_sha256=sha256_bytes(b"no picture"))
    mask = read_lines(store)[0]["mask"]
    (store / mask).write_bytes(b"no picture")
    edit_line(store, 0, mask_sha256=sha256_bytes(b"no picture"))
    assert audit(store, data_root=data_root, split=None).problems == [
        "000000: mask is not a readable picture",
        "000001: source is not a readable picture",
    ]


def test_everything_that_is_wrong_with_the_files_of_a_sample_is_told(store, data_root, tmp_path):
    line = read_lines(store)[0]
    for key in ("image", "mask"):
        (store / line[key]).rename(tmp_path / f"{key}.png")
    (store / line["image"]).symlink_to(tmp_path / "image.png")
    assert [problem for problem in audit(store, data_root=data_root, split=None).problems if "000000:" in problem] == [
        f"000000: image file {line['image']} is a symbolic link; put the file itself there",
        f"000000: mask file {line['mask']} is missing",
    ]
    (store / line["image"]).unlink()
    (store / line["image"]).mkdir()
    assert_found(store, data_root, rf"000000: image file {line['image']} cannot be read \(Is a directory\)")


def test_sources_may_be_of_any_kind(store, data_root):
    for name in SOURCES:
        Image.fromarray(np.full((24, 32), 90, np.uint8)).save(data_root / name, format="JPEG")
    lines = read_lines(store)
    for line in lines:
        line["source_sha256"] = sha256_file(data_root / line["source_image"])
    write_lines(store, lines)
    (first, *_) = audit(store, data_root=data_root, split=None).problems
    assert first == "000000: image is uint16 (24, 32, 1), its source is uint8 (24, 32, 1)"


def test_pictures_up_to_the_limit_are_read_and_no_larger_ones(store, data_root, monkeypatch):
    monkeypatch.setattr("fastsynth.quality.audit.MAX_PIXELS", 24 * 32)
    assert audit(store, data_root=data_root, split=None).problems == []
    monkeypatch.setattr("fastsynth.quality.audit.MAX_PIXELS", 24 * 32 - 1)
    report = audit(store, data_root=data_root, split=None)
    assert report.problems == [f"00000{number}: image is not a readable picture" for number in range(3)]
    assert report.median_changed_share is None


def test_sources_may_be_links(store, data_root, tmp_path):
    (data_root / SOURCES[0]).rename(tmp_path / "away.png")
    (data_root / SOURCES[0]).symlink_to(tmp_path / "away.png")
    assert audit(store, data_root=data_root, split=make_split(data_root, test=REAL[1:])).problems == []


def test_a_long_manifest_is_counted_and_checked_to_its_end(store, data_root, monkeypatch):
    monkeypatch.setattr("fastsynth.quality.audit.CHUNK", 2)
    edit_line(store, 2, version="9")
    report = audit(store, data_root=data_root, split=None)
    assert report.samples == 3
    assert report.problems == ["000002: version is '9', the store was made with '0.1.0'"]


def test_of_the_sources_as_many_are_kept_as_fit_and_the_last_ones(data_root, monkeypatch):
    reads = []
    monkeypatch.setattr("fastsynth.quality.audit.SOURCE_BYTES", 2 * 24 * 32 * 2)
    monkeypatch.setattr("fastsynth.quality.audit.read_image", lambda path: reads.append(path.name) or read_image(path))
    sources = _Sources()
    paths = [data_root / name for name in REAL]  # test/scratch/000, test/scratch/001, test/good/000
    for number in (0, 1, 0, 2, 0, 1, 1, 2, 0):
        pixels = sources.read(paths[number])[1]
        np.testing.assert_array_equal(pixels, read_image(paths[number])[..., ::-1])
    # kept after each: 0, 01, 10, 02, 20, 01, 01, 12, 20
    assert reads == ["000.png", "001.png", "000.png", "001.png", "000.png", "000.png"]


def test_wrong_class_pictures_are_found(store, data_root):
    edit_file(store, 2, "classes", lambda classes: np.where(classes == 1, 7, classes).astype(np.uint8))
    assert_found(store, data_root, "000002: the class-index picture holds .*index 7")
    edit_file(store, 2, "classes", lambda classes: np.where(classes == 7, 0, classes).astype(np.uint8))
    assert_found(store, data_root, "000002: the class-index picture does not cover the same pixels as the mask")
    lines = read_lines(store)
    del lines[2]["classes"]
    write_lines(store, lines)
    assert_found(store, data_root, "holds 2 classes but no class-index picture")


def test_any_number_of_workers_finds_the_same_in_the_same_order(store, data_root):
    edit_file(store, 0, "image", flip_first)
    edit_line(store, 1, seed=100)
    edit_line(store, 2, version="9")
    reports = [audit(store, data_root=data_root, split=None, workers=workers) for workers in (1, 2, 8)]
    assert len(reports[0].problems) == 4
    assert reports[0] == reports[1] == reports[2]


def test_wrong_instance_pictures_are_found(store, data_root):
    edit_file(store, 2, "instance_map", lambda ids: np.where(ids == 1, 2, ids).astype(ids.dtype))
    assert_found(store, data_root, "000002: the instance picture holds instance 2 outside its box")
    edit_file(store, 2, "instance_map", lambda ids: np.where(ids == 2, 9, ids).astype(ids.dtype))
    assert_found(store, data_root, r"000002: the instance picture holds the ids \[9\]")
    edit_file(store, 2, "instance_map", lambda ids: np.where(ids == 9, 0, ids).astype(ids.dtype))
    assert_found(store, data_root, "the instance picture does not cover the same pixels")


def test_classes_and_ids_that_no_instance_has_are_found_from_the_first_on(store, data_root):
    lines = read_lines(store)
    for instance in lines[2]["instances"]:
        instance["defect"] = "scratch"
        instance["id"] += 1
    write_lines(store, lines)
    assert_found(
        store, data_root, r"000002: the class-index picture holds \['pit', 'scratch'\], the instances are \['scra"
    )
    assert_found(store, data_root, r"000002: the instance picture holds the ids \[1\], which no instance has")


def test_of_many_wrong_values_six_are_told(store, data_root):
    edit_file(store, 0, "mask", lambda mask: (np.arange(mask.size, dtype=np.uint8) % 9 + 1).reshape(mask.shape))
    assert_found(store, data_root, r"^000000: mask holds the values \[1, 2, 3, 4, 5, 6\], wanted 0 and 255")


def test_stray_files_are_found(store, data_root):
    (store / "plate" / "train" / "scratch" / "left.png").write_bytes(b"x")
    (store / "plate" / "ground_truth" / ".tmp-1").write_bytes(b"x")
    assert_found(store, data_root, r"^plate/train/scratch/left\.png is in no manifest line")
    assert_found(store, data_root, r"\.tmp-1 is a temporary file left behind")


def test_what_is_not_the_stores_is_told_once_by_its_name(store, data_root):
    """An export in the middle of the store; the folder of what the gate refused belongs to it."""
    for name in ("exported/images/1.png", "exported/images/2.png", "rejected/000009-0.png"):
        atomic_write(store / name, b"x")
    (store / "notes.txt").write_text("x")
    problems = audit(store, data_root=data_root, split=None).problems
    assert problems == ["exported is in no manifest line", "notes.txt is in no manifest line"]


def test_every_unsound_line_is_told_and_the_others_are_still_judged(store, data_root):
    edit_file(store, 2, "image", flip_first)
    edit_line(store, 0, seed="a")
    with (store / "manifest.jsonl").open("a") as manifest:
        manifest.write("[" * 200_000 + "\n" + json.dumps({"id": "000009"}) + "\n")
    report = audit(store, data_root=data_root, split=None)
    assert report.samples == 5
    for message in (":1: seed is 'a'", ":4: .* brackets", ":5: keys missing: category", "^000002: 1 pixels changed"):
        assert sum(bool(re.search(message, problem)) for problem in report.problems) == 1, report.problems


@pytest.mark.parametrize("content", ["[]", "null", "{}", '{"defects": 5}', "no JSON"])
def test_a_damaged_identity_is_one_problem(store, data_root, content):
    (store / "store.json").write_text(content)
    (problem, *others) = audit(store, data_root=data_root, split=None).problems
    assert str(store / "store.json") in problem
    assert all("class-index picture holds" in other for other in others)  # their names are not known any more


def test_a_file_or_folder_that_is_a_link_is_found(store, data_root, tmp_path):
    line = read_lines(store)[1]
    (store / line["mask"]).rename(tmp_path / "mask.png")
    (store / line["mask"]).symlink_to(tmp_path / "mask.png")
    assert audit(store, data_root=data_root, split=None).problems == [
        f"000001: mask file {line['mask']} is a symbolic link; put the file itself there"
    ]
    (store / "plate" / "train").rename(tmp_path / "train")
    (store / "plate" / "train").symlink_to(tmp_path / "train")
    assert_found(store, data_root, "^plate/train is a symbolic link")


def test_a_wrong_data_root_is_one_error(store, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=f"empty: holds no {SOURCES[0]} nor another source of the first 3"):
        audit(store, data_root=tmp_path / "empty", split=None)


def test_a_store_without_identity_is_found(store, data_root):
    (store / "store.json").unlink()
    assert_found(store, data_root, r"store\.json is missing")


def test_a_test_image_as_source_is_found_by_its_bytes(store, data_root):
    copied = data_root / "plate" / "train" / "good" / "renamed.png"
    copied.write_bytes((data_root / SOURCES[0]).read_bytes())
    edit_line(store, 0, source_image="plate/train/good/renamed.png")
    split = make_split(data_root, test=(SOURCES[0],))
    assert_found(store, data_root, rf"^000000: made from the test image {SOURCES[0]}", split=split)


def test_the_mask_of_a_test_image_as_shape_is_found(store, data_root):
    split = make_split(data_root, test=(REAL[0],))
    for sample in ("000000", "000002"):
        assert_found(store, data_root, rf"^{sample}: its shape comes from {SHAPES[0]}", split=split)


def test_the_mask_of_a_test_image_as_shape_of_one_instance_is_found(store, data_root):
    lines = read_lines(store)
    lines[2]["instances"][1]["mask_source"] = SHAPES[1]
    write_lines(store, lines)
    split = make_split(data_root, test=(REAL[1],))
    assert audit(store, data_root=data_root, split=split).problems == [
        f"000002: its shape comes from {SHAPES[1]}, the mask of the test image {REAL[1]}"
    ]


def test_missing_folders_are_one_clear_error(store, data_root, tmp_path):
    with pytest.raises(FileNotFoundError, match="pass the folder of a store"):
        audit(data_root, data_root=data_root, split=None)
    with pytest.raises(FileNotFoundError, match="pass the data root"):
        audit(store, data_root=tmp_path / "nowhere", split=None)


def assert_found(store: Path, data_root: Path, message: str, *, split: Split | None = None) -> None:

    problems = audit(store, data_root=data_root, split=split).problems
    assert any(re.search(message, problem) for problem in problems), problems
