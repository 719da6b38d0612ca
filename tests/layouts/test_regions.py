"""Layers of a whole picture's layout: painted again they are the layout, and below each lies what encloses it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fastsynth.layouts.layout import class_map, remove_instance
from fastsynth.layouts.regions import MAX_REGIONS, layered
from fastsynth.types import Layout

NAMES = ("wall", "window", "door")


def layout_of(labels: np.ndarray, instances: np.ndarray) -> Layout:
    layers = layered(labels, instances, NAMES)
    return Layout(np.zeros((*labels.shape, 3), np.uint8), "a.png", "photo", layers)


def painted(layout: Layout) -> np.ndarray:
    """The labels, -1 where nothing lies."""
    return class_map(layout, NAMES).astype(int) - 1


@given(
    labels=arrays(np.int16, (9, 12), elements=st.sampled_from([0, 1, 2, 255])),
    instances=arrays(np.int64, (9, 12), elements=st.integers(0, 3)),
)
def test_layers_painted_in_order_are_the_layout_again(labels, instances):
    layout = layout_of(labels, instances)
    np.testing.assert_array_equal(painted(layout), np.where(labels == 255, -1, labels))
    ids = layout.instance_map()
    known = labels != 255
    for number, label in {*zip(instances[known].tolist(), labels[known].tolist(), strict=True)}:
        (found,) = np.unique(ids[(instances == number) & (labels == label)])
        assert (ids == found).sum() == ((instances == number) & (labels == label)).sum()
    assert [one.id for one in layout.instances] == list(range(1, len(layout.instances) + 1))


def house() -> tuple[np.ndarray, np.ndarray]:
    """A window with a door in it, of all things, in a wall."""
    labels = np.zeros((20, 20), np.int16)
    labels[4:16, 5:15] = 1
    labels[8:12, 8:12] = 2
    return labels, labels.astype(np.int64) + 40_000


def test_what_encloses_a_region_is_there_when_it_is_gone():
    labels, instances = house()
    layout = layout_of(labels, instances)
    assert [one.defect for one in layout.instances] == ["wall", "window", "door"]
    without_door = painted(remove_instance(layout, 3))
    np.testing.assert_array_equal(without_door, np.where(labels == 2, 1, labels))
    assert not painted(remove_instance(remove_instance(layout, 3), 2)).any()


def test_the_largest_region_lies_under_all_that_is_known():
    labels = np.zeros((10, 10), np.int16)
    labels[:, 6:] = 1
    labels[0, 0] = 255
    layout = layout_of(labels, labels)
    left = painted(remove_instance(layout, 2))
    np.testing.assert_array_equal(left, np.where(labels == 255, -1, 0))


def test_more_regions_than_ids_are_refused():
    count = MAX_REGIONS + 1
    labels = np.zeros((2, count), np.int16)
    with pytest.raises(ValueError, match=r"131072 regions in a layout; at most 65,?535"):
        layered(labels, np.arange(2 * count).reshape(2, count), NAMES)
