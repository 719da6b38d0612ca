import json
import math
import re
import tempfile
from collections import Counter
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastsynth.config import parse_config
from fastsynth.data.datasets import DataSet, Record, open_dataset
from fastsynth.data.duplicates import Looks, detail_thumbnail, near_pairs
from fastsynth.data.split import LeakError, LeakGuard, Split, SplitConfig, make_split, portions
from fastsynth.images import encode_png, read_image

DATA = Path(__file__).resolve().parents[2] / "data"
DEFECTS = ["bend", "crack", "dent"]


def split_of(dataset: DataSet, *, seed: int = 0, near_duplicates: bool = False) -> Split:
    return make_split(dataset, train_fraction=1 / 3, val_fraction=0.2, seed=seed, near_duplicates=near_duplicates)


def parts_of(dataset: DataSet, split: Split) -> Counter:
    return Counter((record.defect, split.part_of(record.image)) for record in dataset.records)


def write_records(root: Path, records: list[Record], groups: dict[str, str]) -> DataSet:
    for record in records:
        (root / record.image).write_text(record.image)
    return DataSet(root, tuple(records), groups)


@st.composite
def small_datasets(draw: st.DrawFn) -> tuple[list[Record], dict[str, str]]:
    """Records of three defect types with 2 to 13 images and of normals; any of them may share a group."""
    counts = [draw(st.integers(2, 13)) for _ in DEFECTS]
    records = [
        Record(f"{defect}{i}.png", None, "tile", defect, "test")
        for defect, n in zip(DEFECTS, counts, strict=True)
        for i in range(n)
    ]
    records += [Record(f"train{i}.png", None, "tile", None, "train") for i in range(draw(st.integers(1, 12)))]
    records += [Record(f"test{i}.png", None, "tile", None, "test") for i in range(draw(st.integers(0, 4)))]
    names = st.lists(st.integers(0, 40), min_size=len(records), max_size=len(records))
    groups = {record.image[:-4]: f"g{n}" for record, n in zip(records, draw(names), strict=True) if n < 24}
    return records, groups


@settings(max_examples=30, deadline=None)
@given(small_datasets(), st.integers(0, 5))
def test_every_image_is_in_one_part_groups_stay_together_and_every_type_is_on_both_sides(drawn, seed):
    records, groups = drawn
    with tempfile.TemporaryDirectory() as folder:
        dataset = write_records(Path(folder), records, groups)
        try:
            split = split_of(dataset, seed=seed)
        except ValueError as error:
            assert "tied together" in str(error)  # noqa: PT017 - which draws fail is not known beforehand
            return
    assert sorted(split.train + split.val + split.test) == sorted(record.image for record in records)
    parts: dict[str, set[str]] = {}
    for record in records:
        parts.setdefault(groups.get(record.image[:-4], record.image), set()).add(split.part_of(record.image))
        if record.part == "test" and record.defect is None:
            assert split.part_of(record.image) == "test"
    assert all(len(part) == 1 for part in parts.values())
    count = parts_of(dataset, split)
    for defect in DEFECTS:
        assert count[defect, "train"] >= 1
        assert count[defect, "test"] >= 1


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(2, 31), min_size=1, max_size=3), st.integers(0, 9))
def test_without_groups_exactly_a_third_rounded_down_is_learnt_from(counts, seed):
    records = [
        Record(f"{defect}{i}.png", None, "tile", defect, "test")
        for defect, n in zip(DEFECTS, counts, strict=False)
        for i in range(n)
    ]
    with tempfile.TemporaryDirectory() as folder:
        dataset = write_records(Path(folder), [*records, Record("n.png", None, "tile", None, "train")], {})
        count = parts_of(dataset, split_of(dataset, seed=seed))
    for defect, n in zip(DEFECTS, counts, strict=False):
        third = max(1, n // 3)
        val = max(1, round(third * 0.2)) if third >= 4 else 0
        assert [count[defect, part] for part in ("train", "val", "test")] == [third - val, val, n - third]


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(1, 6), min_size=2, max_size=7), st.integers(0, 9))
def test_with_groups_the_third_is_met_as_closely_as_whole_groups_permit(sizes, seed):
    records = [
        Record(f"crack{g}_{i}.png", None, "tile", "crack", "test") for g, n in enumerate(sizes) for i in range(n)
    ]
    groups = {record.image[:-4]: record.image.partition("_")[0] for record in records}
    with tempfile.TemporaryDirectory() as folder:
        dataset = write_records(Path(folder), [*records, Record("n.png", None, "tile", None, "train")], groups)
        count = parts_of(dataset, split_of(dataset, seed=seed))
    sums = {0}
    for size in sizes:
        sums |= {total + size for total in sums}
    third = max(1, sum(sizes) // 3)
    best = max(total for total in sums if total <= third) or min(sizes)
    assert count["crack", "train"] + count["crack", "val"] == best


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(1, 6), min_size=5, max_size=30), st.integers(0, 9))
def test_validation_takes_no_larger_share_of_the_pieces_than_of_the_images(sizes, seed):
    records = [
        Record(f"crack{g}_{i}.png", None, "tile", "crack", "test") for g, n in enumerate(sizes) for i in range(n)
    ]
    groups = {record.image[:-4]: record.image.partition("_")[0] for record in records}
    with tempfile.TemporaryDirectory() as folder:
        dataset = write_records(Path(folder), [*records, Record("n.png", None, "tile", None, "train")], groups)
        split = split_of(dataset, seed=seed)
    train, val = ({image.partition("_")[0] for image in part if "crack" in image} for part in (split.train, split.val))
    pieces = len(train) + len(val)
    assert len(val) <= (math.ceil(0.2 * pieces) if pieces >= 4 else 0)


def test_the_split_depends_on_the_seed_and_not_on_the_order_of_the_disk(tiny_tree):
    dataset = open_dataset(tiny_tree)
    shuffled = DataSet(tiny_tree, dataset.records[::-1], dict(reversed(dataset.groups.items())))
    assert split_of(dataset, seed=3) == split_of(shuffled, seed=3)
    assert any(split_of(dataset, seed=3).train != split_of(dataset, seed=seed).train for seed in range(4, 8))


def test_portions_count_images_and_pieces(tiny_tree):
    dataset = open_dataset(tiny_tree)
    groups = {f"crack0{i}": "first" if i < 2 else "second" for i in range(6)}
    grouped = DataSet(tiny_tree, dataset.records, groups)
    split = make_split(grouped, train_fraction=1 / 3, val_fraction=0.2, seed=0, near_duplicates=False)
    found = portions(grouped, split)
    assert list(found) == [("tile", "blob"), ("tile", "crack"), ("tile", None)]
    assert found["tile", "crack"] == {"train": (2, 1), "val": (0, 0), "test": (4, 1)}
    assert {part: portion.images for part, portion in found["tile", "blob"].items()} == {
        "train": 2,
        "val": 0,
        "test": 4,
    }
    assert sum(portion.pieces for portion in found["tile", None].values()) == 14


def test_without_test_normals_a_fifth_is_kept_for_the_test(plain_folders):
    dataset = open_dataset(plain_folders)
    count = parts_of(dataset, split_of(dataset))
    assert [count[None, part] for part in ("train", "val", "test")] == [6, 2, 2]


def test_a_group_with_a_test_normal_is_a_test_group(tiny_tree):
    (tiny_tree / "groups.json").write_text(json.dumps(dict.fromkeys(["test00", "train03", "crack01"], "p")))
    split = split_of(open_dataset(tiny_tree))
    assert split.part_of("train/good/train03.png") == split.part_of("test/crack/crack01.png") == "test"


def test_copies_stay_together_under_any_name(tiny_tree):
    source = tiny_tree / "test" / "crack" / "crack00.png"
    for i in range(3):
        source.with_name(f"copy{i}.png").write_bytes(source.read_bytes())
    split = split_of(open_dataset(tiny_tree))
    assert len({split.part_of(f"test/crack/{name}.png") for name in ("crack00", "copy0", "copy1", "copy2")}) == 1


def test_a_type_with_one_image_or_one_group_is_named(tiny_tree):
    (tiny_tree / "groups.json").write_text(json.dumps({f"blob{i:02d}": "one piece" for i in range(6)}))
    with pytest.raises(ValueError, match="blob: its 6 images are tied together"):
        split_of(open_dataset(tiny_tree))
    for i in range(1, 6):
        (tiny_tree / "test" / "crack" / f"crack{i:02d}.png").unlink()
    message = "crack has 1 image; at least 2 are needed: one to learn from, one to judge on"
    with pytest.raises(ValueError, match=message):
        split_of(open_dataset(tiny_tree))


def test_of_several_categories_the_type_is_named_with_its_own(tmp_path):
    records = [Record(f"{c}{d}{i}.png", None, c, d, "test") for c in "ab" for d in ("bend", "dent") for i in range(3)]
    records += [Record(f"{category}{i}.png", None, category, None, "train") for category in "ab" for i in range(4)]
    with pytest.raises(ValueError, match=r"^b/bend: its 3 images are tied together"):
        split_of(write_records(tmp_path, records, {f"bbend{i}": "one piece" for i in range(3)}))


def test_normal_images_that_are_all_tied_to_test_images_are_named(tiny_tree):
    normals = [f"train{i:02d}" for i in range(10)]
    (tiny_tree / "groups.json").write_text(json.dumps(dict.fromkeys(["test00", *normals], "p")))
    with pytest.raises(ValueError, match="tile: all its normal images are tied together with test images"):
        split_of(open_dataset(tiny_tree))


def test_fractions_outside_0_to_1_are_refused(tiny_tree):
    with pytest.raises(ValueError, match=r"val_fraction is 1\.0; wanted a share between 0 and 1"):
        make_split(open_dataset(tiny_tree), train_fraction=0.5, val_fraction=1.0, seed=0)
    with pytest.raises(ValueError, match=r"train_fraction is 0; wanted a share between 0 and 1"):
        make_split(open_dataset(tiny_tree), train_fraction=0, val_fraction=0.2, seed=0)
    with pytest.raises(ValueError, match="train_fraction"):
        parse_config(SplitConfig, {"train_fraction": 0}, source="test")


def test_a_split_survives_the_disk(tiny_tree, tmp_path):
    split = split_of(open_dataset(tiny_tree))
    split.write(tmp_path / "split.json")
    assert Split.read(tmp_path / "split.json") == split
    value = json.loads((tmp_path / "split.json").read_text())
    assert set(value) == {"train", "val", "test", "seed", "sha256", "settings"}
    assert value["settings"] == {"train_fraction": 1 / 3, "val_fraction": 0.2, "near_duplicates": False}
    with pytest.raises(ValueError, match=r"later\.png is not in the split"):
        split.part_of("later.png")


def test_a_damaged_split_file_is_refused(tiny_tree, tmp_path):
    path = tmp_path / "split.json"
    with pytest.raises(FileNotFoundError, match=r"split\.json: no such split"):
        Split.read(path)
    path.write_text('{"train": []}')
    with pytest.raises(ValueError, match="is not a split; wanted the keys train, val, test"):
        Split.read(path)
    split_of(open_dataset(tiny_tree)).write(path)
    value = json.loads(path.read_text())
    value["train"].append(value["test"][0])
    path.write_text(json.dumps(value))
    with pytest.raises(ValueError, match="every image must be in exactly one part"):
        Split.read(path)


def guard_of(root: Path, split: Split) -> LeakGuard:
    records = open_dataset(root).records
    return LeakGuard(split, Looks.of(root, [record for record in records if record.image in split.test]))


def test_the_guard_refuses_test_images_under_any_name_and_nothing_else(tiny_tree, tmp_path):
    split = split_of(open_dataset(tiny_tree))
    guard = guard_of(tiny_tree, split)
    guard.check(tiny_tree / image for image in split.train + split.val)
    for image in split.test:
        renamed = tmp_path / "harmless.dat"
        renamed.write_bytes((tiny_tree / image).read_bytes())
        with pytest.raises(LeakError, match=f"harmless.dat is the test image {image}"):
            guard.check([renamed])


def resaved(image: np.ndarray) -> bytes:
    return cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 80])[1].tobytes()


COPIES = {
    "brighter": lambda image: encode_png(np.clip(image.astype(int) + 3, 0, 255).astype(np.uint8)),
    "encoded anew": lambda image: cv2.imencode(".png", image[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 9])[1].tobytes(),
    "a JPEG": resaved,
    "16 bit": lambda image: encode_png(image.astype(np.uint16) * 257),
    "twice the size": lambda image: encode_png(np.repeat(np.repeat(image, 2, 0), 2, 1)),
    "grey": lambda image: encode_png(image.mean(axis=2, keepdims=True).astype(np.uint8)),
}


@pytest.mark.parametrize("copy", COPIES.values(), ids=COPIES)
def test_the_guard_knows_a_test_image_that_comes_back_changed_even_when_the_original_is_gone(tiny_tree, tmp_path, copy):
    split = make_split(open_dataset(tiny_tree), train_fraction=1 / 3, val_fraction=0.2, seed=0)
    guard = guard_of(tiny_tree, split)
    for image in split.test:
        path = tmp_path / "upload.png"
        path.write_bytes(copy(read_image(tiny_tree / image)))
        (tiny_tree / image).unlink()
        with pytest.raises(LeakError, match=f"upload.png shows the same as the test image {image}"):
            guard.check([path])


def test_new_pictures_are_no_test_images(tiny_tree, tmp_path):
    guard = guard_of(tiny_tree, make_split(open_dataset(tiny_tree), train_fraction=1 / 3, val_fraction=0.2, seed=0))
    rng = np.random.default_rng(8)
    for number in range(100):
        (tmp_path / f"{number}.png").write_bytes(encode_png(rng.integers(60, 160, (40, 48, 3), np.uint8)))
    (tmp_path / "flat.png").write_bytes(encode_png(np.full((40, 48, 3), 90, np.uint8)))
    guard.check(sorted(tmp_path.glob("*.png")))


def test_a_file_that_has_changed_is_refused_and_only_then_looked_at(tiny_tree):
    split = make_split(open_dataset(tiny_tree), train_fraction=1 / 3, val_fraction=0.2, seed=0)
    guard, victim, test_image = guard_of(tiny_tree, split), split.train[0], split.test[0]
    known = {image: split.sha256[image] for image in split.train}
    guard.check_unchanged(tiny_tree, known, advice="restore it")
    guard.check_unchanged(tiny_tree, {test_image: split.sha256[test_image]}, advice="restore it", are_test=True)
    with pytest.raises(LeakError, match=f"{test_image} is the test image {test_image}"):
        guard.check_unchanged(tiny_tree, {test_image: split.sha256[test_image]}, advice="restore it")
    for content in (b"no picture", encode_png(np.random.default_rng(5).integers(0, 255, (40, 48, 3), np.uint8))):
        (tiny_tree / victim).write_bytes(content)
        with pytest.raises(ValueError, match=f"{victim} has changed; restore it"):
            guard.check_unchanged(tiny_tree, known, advice="restore it")
    (tiny_tree / victim).write_bytes(COPIES["brighter"](read_image(tiny_tree / test_image)))
    with pytest.raises(LeakError, match=f"{victim} shows the same as the test image {test_image}"):
        guard.check_unchanged(tiny_tree, known, advice="restore it")


def test_who_says_that_look_alikes_are_no_copies_may_bring_some(tiny_tree, tmp_path):
    split = make_split(open_dataset(tiny_tree), train_fraction=1 / 3, val_fraction=0.2, seed=0, near_duplicates=False)
    (tmp_path / "alike.png").write_bytes(COPIES["brighter"](read_image(tiny_tree / split.test[0])))
    guard_of(tiny_tree, split).check([tmp_path / "alike.png"])


def test_a_split_with_the_same_bytes_on_both_sides_is_refused_with_both_names(tiny_tree):
    split = split_of(open_dataset(tiny_tree))
    same = {**split.sha256, split.val[0]: split.sha256[split.test[1]]}
    with pytest.raises(LeakError, match=f"{split.val[0]} is the test image {split.test[1]}"):
        guard_of(tiny_tree, replace(split, sha256=same))


def test_looks_come_back_from_disk_and_are_the_same_bytes_again(tiny_tree, tmp_path):
    dataset = open_dataset(tiny_tree)
    looks = Looks.of(tiny_tree, dataset.records)
    for name in ("first.npz", "second.npz"):
        looks.write(tmp_path / name)
    assert (tmp_path / "first.npz").read_bytes() == (tmp_path / "second.npz").read_bytes()
    again = Looks.read(tmp_path / "first.npz")
    for record in dataset.records:
        assert again.like(read_image(tiny_tree / record.image)) == record.image
    for damaged in (b"no archive", b"PK", (tmp_path / "first.npz").read_bytes()[:900]):
        (tmp_path / "second.npz").write_bytes(damaged)
        with pytest.raises(ValueError, match=r"second\.npz is damaged .* delete it, it is made again"):
            Looks.read(tmp_path / "second.npz")


def test_a_lone_or_missing_test_image_is_no_problem(tiny_tree):
    (record, other) = open_dataset(tiny_tree).records[:2]
    assert Looks.of(tiny_tree, [record]).like(read_image(tiny_tree / record.image)) == record.image
    assert Looks.of(tiny_tree, [record]).like(read_image(tiny_tree / other.image)) is None
    assert Looks.of(tiny_tree, []).like(read_image(tiny_tree / record.image)) is None


def scene(rng: np.random.Generator, *, common: np.ndarray | None = None) -> np.ndarray:
    """(96, 128, 1) uint8: a texture of coarse and fine detail, on top of what all pictures have in common."""
    coarse = cv2.resize(rng.normal(size=(24, 32)).astype(np.float32), (128, 96), interpolation=cv2.INTER_CUBIC)
    picture = 128 + 12 * coarse + 6 * rng.normal(size=(96, 128))
    if common is not None:
        picture = picture + common
    return np.clip(picture, 0, 255).astype(np.uint8)[..., None]


def darker_and_shifted(image: np.ndarray) -> np.ndarray:
    return (image[3:, 4:] * 0.5 + 10).astype(np.uint8)


@pytest.mark.parametrize("count", [12, 90])
def test_another_exposure_and_crop_is_found_and_other_pictures_are_not(count):
    rng = np.random.default_rng(0)
    images = [scene(rng) for _ in range(count)]
    images += [darker_and_shifted(images[2]), darker_and_shifted(images[7])]
    found = near_pairs(np.stack([detail_thumbnail(image) for image in images]))
    assert found == [(2, count), (7, count + 1)]


def test_16_bit_pictures_are_compared_alike():
    rng = np.random.default_rng(0)
    images = [scene(rng) for _ in range(8)]
    images.append(images[3].astype(np.uint16) * 200)
    assert near_pairs(np.stack([detail_thumbnail(image) for image in images])) == [(3, 8)]


def test_pictures_of_one_aligned_object_are_not_duplicates_of_each_other():
    rng = np.random.default_rng(0)
    common = np.zeros((96, 128), np.float32)
    cv2.circle(common, (64, 48), 30, 70, 5)
    cv2.rectangle(common, (50, 40), (78, 60), -60, -1)
    cv2.line(common, (56, 56), (72, 44), 90, 3)
    images = [scene(rng, common=common) for _ in range(40)]
    thumbnails = np.stack([detail_thumbnail(image) for image in images])
    alike = np.einsum("ahw,bhw->ab", thumbnails, thumbnails)
    assert np.median(alike) > 0.5  # the fixed threshold alone would merge them
    assert near_pairs(thumbnails) == []
    images.append(np.clip(images[5] * 0.9 + 4, 0, 255).astype(np.uint8))
    assert near_pairs(np.stack([detail_thumbnail(image) for image in images])) == [(5, 40)]


@pytest.mark.parametrize("count", [2, 3, 4])
def test_of_few_pictures_of_one_aligned_object_none_is_a_duplicate(count):
    """How alike any two are is not known of so few: a correlation of 0.9 is asked for, as of a lone one."""
    rng = np.random.default_rng(0)
    common = np.zeros((96, 128), np.float32)
    cv2.circle(common, (64, 48), 30, 90, 5)
    cv2.rectangle(common, (50, 40), (78, 60), -80, -1)
    images = [scene(rng, common=common) for _ in range(count)]
    thumbnails = np.stack([detail_thumbnail(image) for image in images])
    assert 0.5 < np.einsum("hw,hw", thumbnails[0], thumbnails[1]) < 0.9
    assert near_pairs(thumbnails) == []
    again = np.clip(images[0] * 0.9 + 4, 0, 255).astype(np.uint8)
    assert near_pairs(np.stack([*thumbnails, detail_thumbnail(again)])) == [(0, count)]


def test_flat_and_single_pixel_pictures_are_nobodys_duplicate():
    flat = [np.full((h, w, 1), 90, np.uint8) for h, w in ((1, 1), (40, 30), (40, 30))]
    assert near_pairs(np.stack([detail_thumbnail(image) for image in flat])) == []


def test_near_duplicates_stay_together_only_when_asked(tiny_tree):
    rng = np.random.default_rng(0)
    for i in range(6):
        image = scene(rng)
        path = tiny_tree / "test" / "crack" / f"crack{i:02d}.png"
        path.write_bytes(encode_png(image))
        path.with_name(f"dark{i:02d}.png").write_bytes(encode_png(darker_and_shifted(image)))
    dataset = open_dataset(tiny_tree)

    def apart(split: Split) -> int:
        pairs = [(f"test/crack/crack{i:02d}.png", f"test/crack/dark{i:02d}.png") for i in range(6)]
        return sum(split.part_of(first) != split.part_of(second) for first, second in pairs)

    assert apart(split_of(dataset, near_duplicates=True)) == 0
    assert apart(make_split(dataset, train_fraction=1 / 3, val_fraction=0.2, seed=0)) == 0  # nothing said: together
    assert sum(apart(split_of(dataset, seed=seed, near_duplicates=False)) for seed in range(3)) > 0


@pytest.mark.data
def test_tiles_at_several_exposures_are_found_and_unrelated_tiles_are_not():
    root = DATA / "magnetic_tile"
    if not root.is_dir():
        pytest.skip("data/magnetic_tile is not here")
    dataset = open_dataset(root)
    records = dataset.defects
    found = near_pairs(np.stack([detail_thumbnail(read_image(root / record.image)) for record in records]))
    groups = [dataset.group_of(record) for record in records]
    known = sum(n * (n - 1) // 2 for n in Counter(groups).values())
    assert sum(groups[i] == groups[j] for i, j in found) / known > 0.95
    # groups.json misses pairs, so it cannot say what is wrong; the running number of the photograph can:
    # one tile was photographed within a few thousand numbers of some 360,000
    numbers = [int(re.search(r"num_(\d+)", record.image).group(1)) for record in records]
    far = [(i, j) for i, j in found if groups[i] != groups[j] and abs(numbers[i] - numbers[j]) > 20_000]
    assert len(far) / len(found) < 0.01


def test_a_thumbnail_does_not_depend_on_the_picture_being_read_in_parts():
    """Each pixel repeated: as many rows as need several parts, and the same mean over every area."""
    image = np.random.default_rng(0).integers(0, 256, (48, 96, 3), dtype=np.uint8)
    large = image.repeat(15, axis=0).repeat(2, axis=1)
    np.testing.assert_allclose(detail_thumbnail(large), detail_thumbnail(image), atol=1e-5)
