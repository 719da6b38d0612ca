import numpy as np
import pytest

from fastsynth.types import COMBINED, Instance, Layout, Sample, check_image, sample_seed

BACKGROUND = np.zeros((20, 30, 3), np.uint8)


def instance(number: int = 1, *, defect: str = "crack", left: int = 0, top: int = 0, size=(4, 6)) -> Instance:
    return Instance(number, defect, np.ones(size, bool), left, top)


def layout(*instances: Instance) -> Layout:
    return Layout(BACKGROUND, "normal/1.png", "tile", instances)


def test_a_box_encloses_the_mask_and_the_area_counts_it():
    mask = np.eye(3, dtype=bool)
    drawn = Instance(1, "crack", mask, left=5, top=7)
    assert drawn.bbox == (5, 7, 8, 10)
    assert drawn.area == 3
    x0, y0, x1, y1 = drawn.bbox
    assert np.array_equal(layout(drawn).foreground[y0:y1, x0:x1], mask)
    assert layout(drawn).foreground.sum() == drawn.area


@pytest.mark.parametrize("mask", [np.ones((2, 2), np.uint8), np.ones((2, 2, 1), bool), np.zeros((2, 2), bool)])
def test_a_mask_that_is_not_a_filled_bool_array_is_refused(mask):
    with pytest.raises(ValueError, match="mask"):
        Instance(1, "crack", mask, 0, 0)


def test_a_later_instance_lies_over_an_earlier_one():
    ids = layout(instance(1), instance(2, left=3)).instance_map()
    assert ids[0, :9].tolist() == [1, 1, 1, 2, 2, 2, 2, 2, 2]
    assert np.array_equal(layout(instance(1), instance(2, left=3)).foreground, ids > 0)


@pytest.mark.parametrize(("left", "top"), [(-1, 0), (0, -1), (25, 0), (0, 17)])
def test_an_instance_beyond_the_border_is_refused(left, top):
    with pytest.raises(ValueError, match="the image is 30×20; move it inside"):
        layout(instance(left=left, top=top))


def test_two_instances_with_one_id_are_refused():
    with pytest.raises(ValueError, match=r"ids \[1, 1\] repeat"):
        layout(instance(1), instance(1, left=10))


def test_the_defect_of_a_layout_is_its_only_class_or_combined():
    assert layout(instance(1), instance(2, left=10)).defect == "crack"
    assert layout(instance(1), instance(2, defect="pit", left=10)).defect == COMBINED


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((4, 4, 3), np.float32),
        np.zeros((4, 4, 3), np.int64),
    ],
)
def test_an_image_of_another_rank_channel_count_or_dtype_is_refused(image):
    with pytest.raises(ValueError, match=r"pass \(H, W, 1 or 3\) in uint8 or uint16"):
        check_image(image)


@pytest.mark.parametrize("mask", [np.zeros((20, 31), np.uint8), np.zeros((20, 30), bool)])
def test_a_sample_whose_mask_does_not_fit_is_refused(mask):
    with pytest.raises(ValueError, match="pass a uint8 mask of the image's size"):
        Sample(BACKGROUND, mask, layout(instance()), seed=0, renderer="paste")


def test_seeds_of_samples_are_63_bit_repeatable_and_all_different():
    seeds = {sample_seed(run, sample, attempt) for run in range(5) for sample in range(200) for attempt in range(3)}
    assert len(seeds) == 5 * 200 * 3
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert sample_seed(1, 2) == sample_seed(1, 2, 0)
