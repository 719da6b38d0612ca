"""Laws of the augmentation stage."""

import subprocess
import sys
from itertools import pairwise

import cv2
import numpy as np
import pytest

from fastsynth.augment import (
    A,
    augment_preview,
    augment_sample,
    build_augmentation,
    load_augmentation,
    save_augmentation,
)
from fastsynth.augment_config import AugmentConfig
from fastsynth.config import dump_config, parse_config


def sample(dtype=np.uint8, channels=1, size=(40, 40)):
    rng = np.random.default_rng(0)
    image = rng.integers(0, np.iinfo(dtype).max, (*size, channels), dtype=dtype, endpoint=True)
    foreground = np.zeros(size, bool)
    foreground[8:20, 10:16] = True
    return image, foreground


def default():
    return build_augmentation(AugmentConfig())


def pipeline(*transforms):
    return build_augmentation(AugmentConfig(transforms=list(transforms)))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 3])
def test_default_pipeline_keeps_size_dtype_and_channels_and_uses_the_range(dtype, channels):
    image, foreground = sample(dtype, channels)
    compose = default()
    for seed in range(30):
        augmented, inside = augment_sample(compose, image, foreground, seed=seed)
        assert augmented.shape == image.shape
        assert augmented.dtype == dtype
        assert inside.dtype == bool
        assert inside.any()
        assert 0.2 < augmented.mean() / np.iinfo(dtype).max < 0.8


def test_every_default_transform_fires_for_16_bit():
    image, foreground = sample(np.uint16, 3)
    for transform in default().transforms:
        transform.p = 1.0
        augmented, _ = augment_sample(A.Compose([transform]), image, foreground, seed=1)
        assert augmented.dtype == np.uint16


def test_the_same_seed_gives_the_same_bytes_whatever_came_before():
    image, foreground = sample()
    compose = default()
    first = augment_sample(compose, image, foreground, seed=5)
    augment_sample(compose, image, foreground, seed=6)
    again = augment_sample(compose, image, foreground, seed=5)
    fresh = augment_sample(default(), image, foreground, seed=5)
    for other in (again, fresh):
        np.testing.assert_array_equal(first[0], other[0])
        np.testing.assert_array_equal(first[1], other[1])


def test_two_flips_are_drawn_independently():
    compose = pipeline({"name": "HorizontalFlip", "p": 0.5}, {"name": "VerticalFlip", "p": 0.5})
    image, foreground = sample()
    seen = {augment_sample(compose, image, foreground, seed=seed)[0].tobytes() for seed in range(40)}
    assert seen == {v.tobytes() for v in (image, image[:, ::-1], image[::-1], image[::-1, ::-1])}


def test_image_and_foreground_move_together():
    image, foreground = sample()
    image[:] = 0
    image[foreground] = 255
    compose = pipeline({"name": "D4", "p": 1.0}, {"name": "Transpose", "p": 0.5})
    for seed in range(10):
        augmented, inside = augment_sample(compose, image, foreground, seed=seed)
        np.testing.assert_array_equal(augmented[..., 0] == 255, inside)


def test_masks_are_resampled_with_nearest_even_when_a_pipeline_says_otherwise():
    compose = A.Compose([A.Affine(rotate=(20, 20), mask_interpolation=cv2.INTER_CUBIC, p=1, strict=True)])
    image, foreground = sample()
    _, inside = augment_sample(compose, image, foreground, seed=0)
    assert compose.transforms[0].mask_interpolation == cv2.INTER_NEAREST
    assert abs(int(inside.sum()) - int(foreground.sum())) <= 6


def test_16_bit_survives_an_empty_pipeline_bit_for_bit():
    image, foreground = sample(np.uint16)
    augmented, inside = augment_sample(pipeline(), image, foreground, seed=0)
    np.testing.assert_array_equal(augmented, image)
    np.testing.assert_array_equal(inside, foreground)


@pytest.mark.parametrize("suffix", ["json", "yaml"])
def test_a_saved_pipeline_loads_to_the_same_augmentation(tmp_path, suffix):
    image, foreground = sample()
    save_augmentation(default(), tmp_path / f"augmentation.{suffix}")
    loaded = build_augmentation(AugmentConfig(pipeline=tmp_path / f"augmentation.{suffix}"))
    for seed in range(5):
        expected = augment_sample(default(), image, foreground, seed=seed)
        got = augment_sample(loaded, image, foreground, seed=seed)
        np.testing.assert_array_equal(got[0], expected[0])
        np.testing.assert_array_equal(got[1], expected[1])


def test_pipelines_nest():
    compose = pipeline(
        {"name": "OneOf", "p": 1.0, "transforms": [{"name": "RandomRotate90"}, {"name": "Transpose", "p": 1}]}
    )
    assert [type(t).__name__ for t in compose.transforms[0].transforms] == ["RandomRotate90", "Transpose"]


def test_an_omitted_p_is_the_transforms_own_default():
    assert pipeline({"name": "HorizontalFlip"}).transforms[0].p == A.HorizontalFlip().p


@pytest.mark.parametrize(
    ("transform", "hint"),
    [
        ({"name": "HorizontalFlop"}, "did you mean 'HorizontalFlip'"),
        ({"name": "Affine", "rotat": 5}, "did you mean 'rotate'"),
        ({"name": "RandomRotate90", "limit": 5}, "RandomRotate90 has no argument 'limit'"),
        ({"name": "Affine", "p": 3}, "less than or equal to 1"),
        ({"p": 0.5}, "has no name"),
    ],
)
def test_a_mistake_in_a_transform_is_one_clear_line(transform, hint):
    with pytest.raises(ValueError, match=hint) as error:
        pipeline(transform)
    assert "\n" not in str(error.value)


def test_aliases_that_multiply_are_refused(tmp_path):
    lines = ["a: &a [1, 1]", *(f"{b}: &{b} [*{a}, *{a}, *{a}, *{a}, *{a}]" for a, b in pairwise("abcdefghij"))]
    (tmp_path / "bomb.yaml").write_text("\n".join([*lines, "transform: *j"]))
    with pytest.raises(ValueError, match=r"bomb\.yaml: .*alias \*a; write the value out"):
        load_augmentation(tmp_path / "bomb.yaml")


def test_what_is_no_pipeline_is_refused(tmp_path):
    (tmp_path / "a.json").write_text("{}")
    A.save(A.HorizontalFlip(), tmp_path / "b.json")
    with pytest.raises(ValueError, match="not an albumentations pipeline"):
        load_augmentation(tmp_path / "a.json")
    with pytest.raises(ValueError, match="wrap it in"):
        load_augmentation(tmp_path / "b.json")
    with pytest.raises(FileNotFoundError):
        load_augmentation(tmp_path / "c.json")


def test_a_pipeline_that_normalises_is_refused():
    image, foreground = sample(channels=3)
    with pytest.raises(ValueError, match="remove Normalize"):
        augment_sample(pipeline({"name": "Normalize"}), image, foreground, seed=0)


def test_preview_rows_hold_the_original_and_its_variants():
    rows = augment_preview(default(), [sample(), sample(np.uint16, 3)], columns=3, seed=0)
    assert [len(row) for row in rows] == [4, 4]
    assert all(picture.dtype == np.uint8 and picture.shape[2] == 3 for row in rows for picture in row)


def test_config_round_trips_and_takes_one_source():
    config = AugmentConfig(transforms=[{"name": "D4", "p": 0.5}])
    assert "D4" in dump_config(config)
    with pytest.raises(ValueError, match="keep one of them"):
        parse_config(AugmentConfig, {"transforms": [], "pipeline": "a.json"}, source="x.yaml")


def test_config_needs_no_torch():
    code = "import sys, fastsynth.augment_config; assert not {'torch', 'albumentations'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
