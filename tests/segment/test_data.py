"""Laws of the training crops."""

from collections import Counter
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from fastsynth.augment import build_augmentation
from fastsynth.augment_config import AugmentConfig
from segment.data import (
    CropDataset,
    ItemCache,
    TrainingItem,
    cut,
    decode_item,
    full_range,
    resize_foreground,
    to_tensor,
)


def write_item(folder, name, defect=None, *, size=(60, 80), spots=((30, 40),), synthetic=False, dtype=np.uint8):
    """A dark picture; every spot is a bright 3×3 defect."""
    high = np.iinfo(dtype).max
    image = np.full(size, high // 5, dtype)
    mask = np.zeros(size, np.uint8)
    for y, x in spots if defect else ():
        image[y : y + 3, x : x + 3] = high
        mask[y : y + 3, x : x + 3] = 255
    cv2.imwrite(str(folder / f"{name}.png"), image)
    if defect is None:
        return TrainingItem(folder / f"{name}.png", None, None)
    cv2.imwrite(str(folder / f"{name}_mask.png"), mask)
    return TrainingItem(folder / f"{name}.png", folder / f"{name}_mask.png", defect, synthetic)


def dataset(items, **settings):
    defaults = {
        "augmentation": build_augmentation(AugmentConfig(transforms=[])),
        "crop_size": 32,
        "batch_size": 8,
        "normal_share": 0.25,
        "synthetic_ratio": 0.0,
        "synthetic_batches": 10**6,
        "random_share": 0.0,
        "hard_negative_share": 0.5,
        "source_share": 0.5,
        "zoom": (0.7, 1.4),
        "cache_bytes": 10**7,
        "seed": 3,
    }
    return CropDataset(items, **(defaults | settings))


def drawn(crops, count):
    return [crops.draw(n, np.random.default_rng((0, n)))[0] for n in range(count)]


@pytest.fixture
def items(tmp_path):
    normal = [write_item(tmp_path, f"normal{i}") for i in range(3)]
    # nine of one type, one of the other: types must be balanced all the same
    scratches = [write_item(tmp_path, f"scratch{i}", "scratch") for i in range(9)]
    return [*normal, *scratches, write_item(tmp_path, "hole", "hole")]


def test_every_batch_holds_the_same_mixture(items):
    crops = dataset(items)
    for batch in range(6):
        drawn_items = [crops.draw(batch * 8 + i, np.random.default_rng(i))[0] for i in range(8)]
        assert Counter(item.defect for item in drawn_items) == {None: 2, "hole": 3, "scratch": 3}


def test_normal_crops_are_empty_and_defect_crops_show_the_defect(items):
    crops = dataset(items)
    for number in range(24):
        crop = crops[number]
        assert crop["image"].shape == (3, 32, 32)
        assert crop["foreground"].shape == (1, 32, 32)
        assert crop["foreground"].any() == (number % 8 >= 2)


def test_normal_crops_show_the_border_as_often_as_defect_crops_do(tmp_path):
    frame = np.full((200, 200), 50, np.uint8)
    frame[[0, -1]] = frame[:, [0, -1]] = 255
    cv2.imwrite(str(tmp_path / "normal.png"), frame)
    at_the_rim = write_item(tmp_path, "hole", "hole", size=(200, 200), spots=((0, 90),))
    crops = dataset([TrainingItem(tmp_path / "normal.png", None, None), at_the_rim], zoom=(1.0, 1.0))
    normal = [n for n in range(400) if n % 8 < 2]
    share = np.mean([float(crops[n]["image"].max()) > 0.9 for n in normal])
    assert share > 0.2  # a corner drawn evenly inside the image would give 0.02


def test_hard_negatives_are_shown_in_their_share_of_the_normal_crops(tmp_path, items):
    bright = np.full((200, 200), 50, np.uint8)
    bright[120, 33] = 255
    cv2.imwrite(str(tmp_path / "hard.png"), bright)
    hard = TrainingItem(tmp_path / "hard.png", None, None)
    point = torch.tensor([[len(items), 33, 120]])
    for share in (1.0, 0.25):
        crops = dataset([*items, hard], hard_negative_share=share, zoom=(1.0, 1.0))
        crops.hard_negatives = point
        normal = [n for n in range(800) if n % 8 < 2]
        shown = np.mean([float(crops[n]["image"].max()) > 0.9 for n in normal])
        # the others are of four images, and of the hard one's few show this pixel
        assert shown == pytest.approx(share + (1 - share) / 4 * (32 / 200) ** 2, abs=0.06)


def test_the_defect_crops_are_the_same_with_and_without_hard_negatives(items):
    plain, hard = dataset(items), dataset(items)
    hard.hard_negatives = torch.tensor([[0, 5, 5]])
    for number in (2, 7, 12, 15):
        assert torch.equal(plain[number]["image"], hard[number]["image"])


def sample_and_source(folder):
    """A sample, and the photograph below it, which has a bright pixel in the middle of where the defect is."""
    picture = np.full((200, 200), 50, np.uint8)
    picture[120, 33] = 255
    cv2.imwrite(str(folder / "source.png"), picture)
    made = write_item(folder, "made", "scratch", size=(200, 200), spots=((119, 32),), synthetic=True)
    source = TrainingItem(folder / "source.png", None, None)
    return replace(made, source_path=source.image_path), source


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_normal_crops_show_where_a_sample_has_its_defect_while_samples_are_drawn(tmp_path, items, share):
    crops = dataset(
        [*items, *sample_and_source(tmp_path)],
        synthetic_ratio=0.5,
        synthetic_batches=100,
        hard_negative_share=0.0,
        source_share=share,
        zoom=(1.0, 1.0),
    )
    normal = [crops[n] for n in range(1600) if n % 8 < 2]
    assert not any(crop["foreground"].any() for crop in normal)
    shown = [float(crop["image"].max()) > 0.9 for crop in normal]
    by_chance = (32 / 200) ** 2 / 4  # the source is one of four normal images, and few of its crops show this pixel
    assert np.mean(shown[:200]) == pytest.approx(share + (1 - share) * by_chance, abs=0.09)
    assert np.mean(shown[200:]) < 0.03


def test_the_real_arm_knows_nothing_of_samples_and_their_sources(tmp_path, items):
    made, source = sample_and_source(tmp_path)
    real, both = dataset([*items, source]), dataset([*items, source, made])
    for number in range(24):
        assert torch.equal(real[number]["image"], both[number]["image"])


def test_a_sample_on_a_photograph_that_is_no_normal_item_has_no_source(tmp_path, items):
    made, _ = sample_and_source(tmp_path)
    crops = dataset([*items, made], synthetic_ratio=0.5)
    assert {item.image_path for item in drawn(crops, 400) if item.defect is None} == {i.image_path for i in items[:3]}


def test_foreground_lies_on_the_defect(items):
    crops = dataset(items, zoom=(1.0, 1.0))
    for number in range(16):
        crop = crops[number]
        assert torch.equal(crop["image"][:1] > 0.9, crop["foreground"] > 0)


def test_a_crop_depends_on_seed_and_number_alone(items):
    augmentation = build_augmentation(AugmentConfig())
    first, second = (dataset(items, augmentation=augmentation, cache_bytes=cache) for cache in (10**7, 0))
    forward = [first[n] for n in range(12)]
    backward = [second[n] for n in reversed(range(12))][::-1]
    for a, b in zip(forward, backward, strict=True):
        assert torch.equal(a["image"], b["image"])
        assert torch.equal(a["foreground"], b["foreground"])
    other = dataset(items, augmentation=augmentation, seed=4)
    assert not all(torch.equal(forward[n]["image"], other[n]["image"]) for n in range(12))


def test_synthetic_ratio_is_the_share_of_synthetic_defect_crops(tmp_path, items):
    items = [*items, write_item(tmp_path, "made", "scratch", synthetic=True)]
    for ratio in (0.0, 0.3, 1.0):
        picked = [i for i in drawn(dataset(items, synthetic_ratio=ratio), 4000) if i.defect == "scratch"]
        assert np.mean([item.synthetic for item in picked]) == pytest.approx(ratio, abs=0.05)


def test_after_its_batches_no_synthetic_crop_is_drawn_where_there_are_real_ones(tmp_path, items):
    made = [write_item(tmp_path, f"made {kind}", kind, synthetic=True) for kind in ("scratch", "only made")]
    crops = dataset([*items, *made], synthetic_ratio=1 / 2, synthetic_batches=20)
    early, late = drawn(crops, 40 * 8)[: 20 * 8], drawn(crops, 40 * 8)[20 * 8 :]
    assert {(i.defect, i.synthetic) for i in early if i.defect == "scratch"} == {("scratch", False), ("scratch", True)}
    assert {(i.defect, i.synthetic) for i in late if i.defect} == {
        ("scratch", False),
        ("hole", False),
        ("only made", True),
    }


def test_synthetic_only_never_shows_a_real_defect(tmp_path, items):
    items = [*items, write_item(tmp_path, "made", "scratch", synthetic=True)]
    picked = [i for i in drawn(dataset(items, synthetic_ratio=1.0), 400) if i.defect is not None]
    assert {(item.defect, item.synthetic) for item in picked} == {("scratch", True)}


def test_small_regions_are_seen_as_often_as_large_ones(tmp_path):
    item = write_item(tmp_path, "two", "hole", size=(400, 400), spots=((20, 20),))
    mask = cv2.imread(str(item.mask_path), cv2.IMREAD_GRAYSCALE)
    mask[200:380, 200:380] = 255
    cv2.imwrite(str(item.mask_path), mask)
    crops = dataset([item], normal_share=0.0)
    small = np.mean([float(crops[n]["foreground"].sum()) < 40 for n in range(200)])
    assert small == pytest.approx(0.5, abs=0.12)


@pytest.mark.parametrize("size", [(1, 1), (33, 7), (20, 200)])
def test_images_smaller_than_a_crop_are_mirrored(tmp_path, size):
    item = write_item(tmp_path, "tiny", "hole", size=size, spots=((0, 0),))
    crop = dataset([item], normal_share=0.0, random_share=0.5)[1]
    assert crop["image"].shape == (3, 32, 32)


def test_cut_equals_a_crop_of_the_mirrored_image():
    image = np.random.default_rng(0).integers(0, 255, (20, 30, 3), dtype=np.uint8)
    mirrored = np.pad(image, [(15, 15), (15, 15), (0, 0)], mode="reflect")
    for left, top, side in [(-3, -9, 36), (7, -4, 23), (2, 3, 10), (-10, -12, 44)]:
        expected = mirrored[top + 15 : top + 15 + side, left + 15 : left + 15 + side]
        np.testing.assert_array_equal(cut(image, left, top, side), expected)


def test_8_and_16_bit_give_the_same_tensor(tmp_path):
    eight, sixteen = (write_item(tmp_path, d.__name__, "hole", dtype=d) for d in (np.uint8, np.uint16))
    for path in (eight.image_path, sixteen.image_path):
        image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        image[0, 0] = 0  # so that both fill their range
        cv2.imwrite(str(path), image)
    a, b = (to_tensor(decode_item(item).image) for item in (eight, sixteen))
    torch.testing.assert_close(a, b, atol=1e-6, rtol=0)
    assert a.median() == pytest.approx(-0.6)
    assert a.min() == -1
    assert a.max() == 1


def test_grey_is_repeated_and_ends_map_to_minus_one_and_one():
    tensor = to_tensor(np.array([[[0], [255]]], np.uint8))
    assert torch.equal(tensor, torch.tensor([[[-1.0, 1.0]]]).expand(3, 1, 2))


def test_cache_stays_within_its_budget_and_forgets_the_least_recently_used(items):
    size = decode_item(items[0]).nbytes
    cache = ItemCache(2 * size)
    a, b, c = items[:3]
    kept = cache.load(a)
    cache.load(b)
    assert cache.load(a) is kept
    cache.load(c)
    assert cache.used <= 2 * size
    assert cache.load(a) is kept
    assert list(cache._decoded) == [c, a]


def test_mixtures_that_cannot_be_filled_are_refused(items):
    defects = [item for item in items if item.defect]
    with pytest.raises(ValueError, match="no normal image"):
        dataset(defects)
    with pytest.raises(ValueError, match="no defect image"):
        dataset(items[:3])
    with pytest.raises(ValueError, match="no defect image"):
        dataset(items, synthetic_ratio=1.0)
    with pytest.raises(ValueError, match="no item is synthetic"):
        dataset(items, synthetic_ratio=0.5)
    with pytest.raises(ValueError, match="leaves no defect"):
        dataset(items, normal_share=1.0)


def test_items_that_contradict_themselves_are_refused(tmp_path, items):
    with pytest.raises(ValueError, match="needs both"):
        TrainingItem(tmp_path / "a.png", None, "hole")
    wrong = write_item(tmp_path, "wrong", "hole", size=(40, 40))
    empty = write_item(tmp_path, "empty", "hole", spots=())
    with pytest.raises(ValueError, match="its image's size"):
        decode_item(TrainingItem(items[0].image_path, wrong.mask_path, "hole"))
    with pytest.raises(ValueError, match="is empty"):
        decode_item(empty)


def test_an_augmentation_that_resizes_is_refused(items):
    crops = dataset(
        items, augmentation=build_augmentation(AugmentConfig(transforms=[{"name": "Resize", "height": 8, "width": 8}]))
    )
    with pytest.raises(ValueError, match="remove what resizes"):
        [crops[n] for n in range(8)]


def test_without_real_defects_their_pictures_are_not_looked_through_either(items, tmp_path):
    drawn_one = write_item(tmp_path, "drawn", "hole", synthetic=True)
    assert [item.defect for item in dataset([*items, drawn_one], synthetic_ratio=1.0).photographed] == [None] * 3
    assert len(dataset([*items, drawn_one], synthetic_ratio=0.5).photographed) == len(items)


def test_samples_of_several_types_take_no_turn_of_their_own(items, tmp_path):
    """Without real images its turn would be synthetic even where the ratio is 0."""
    mixed = write_item(tmp_path, "mixed", "combined", synthetic=True)
    crops = dataset([*items, mixed], synthetic_ratio=0.5, synthetic_batches=6)
    assert crops.defects == ["hole", "scratch"]
    assert mixed in drawn(crops, 48)
    late = [crops.draw(n, np.random.default_rng(n))[0] for n in range(48, 96)]
    assert not any(item.synthetic for item in late)
    real = replace(write_item(tmp_path, "two", "combined"), synthetic=False)
    assert dataset([*items, mixed, real], synthetic_ratio=0.5).defects == ["combined", "hole", "scratch"]


def test_pictures_of_twelve_bit_are_seen_as_those_of_eight(tmp_path):
    eight = np.random.default_rng(0).integers(0, 256, (40, 50, 1), np.uint8)
    eight.flat[:2] = 0, 255
    twelve, sixteen = (eight.astype(np.uint16) * factor for factor in (16, 257))
    np.testing.assert_allclose(to_tensor(full_range(twelve)), to_tensor(eight), atol=1e-4)
    np.testing.assert_array_equal(full_range(sixteen), sixteen)
    np.testing.assert_array_equal(full_range(eight), eight)
    offset = TrainingItem(tmp_path / "offset.png", None, None)
    cv2.imwrite(str(offset.image_path), twelve + 32768)
    np.testing.assert_allclose(to_tensor(decode_item(offset).image), to_tensor(eight), atol=1e-4)


class TestShrunkLabels:
    @pytest.mark.parametrize("side", [100, 128, 150, 199, 254])
    @pytest.mark.parametrize("end", [(255, 255), (255, 90), (30, 255)])
    def test_a_line_of_one_pixel_stays_one_piece(self, side, end):
        mask = cv2.line(np.zeros((256, 256), np.uint8), (10, 10), end, 1)
        pieces, _ = cv2.connectedComponents(resize_foreground(mask, side).astype(np.uint8), connectivity=8)
        assert pieces - 1 == 1

    @pytest.mark.parametrize("side", [100, 128, 150, 199])
    def test_a_large_region_keeps_its_area(self, side):
        mask = cv2.circle(np.zeros((256, 256), np.uint8), (120, 130), 80, 1, cv2.FILLED)
        assert resize_foreground(mask, side).mean() == pytest.approx(mask.mean(), rel=0.02)

    def test_a_speck_of_one_pixel_is_still_there_and_as_small_as_can_be(self):
        mask = np.zeros((256, 256), np.uint8)
        mask[100, 77] = 1
        shrunk = resize_foreground(mask, 100)
        assert 1 <= shrunk.sum() <= 4
        assert abs(np.argwhere(shrunk).mean(axis=0) * 2.56 - [100, 77]).max() < 2.56

    def test_enlarged_pixels_are_repeated(self):
        mask = (np.random.default_rng(0).random((32, 32)) < 0.3).astype(np.uint8)
        np.testing.assert_array_equal(resize_foreground(mask, 64), mask.repeat(2, 0).repeat(2, 1) > 0)
