import numpy as np
import pytest

from fastsynth.layouts.layout import add_instance, class_map, remove_instance
from fastsynth.types import Layout


@pytest.fixture
def empty() -> Layout:
    return Layout(np.zeros((20, 30, 1), np.uint8), "good/1.png", "plate")


def block(height, width):
    return np.ones((height, width), bool)


def test_adding_leaves_the_old_layout_untouched_and_numbers_from_one(empty):
    one = add_instance(empty, defect="pit", mask=block(2, 3), left=4, top=5)
    two = add_instance(one, defect="dent", mask=block(1, 1), left=0, top=0, shape_source="procedural:blob")
    assert empty.instances == ()
    assert [instance.id for instance in two.instances] == [1, 2]
    assert two.instances[0] is one.instances[0]
    assert two.instances[1].shape_source == "procedural:blob"


def test_removing_undoes_adding_and_keeps_the_other_ids(empty):
    one = add_instance(empty, defect="pit", mask=block(2, 3), left=4, top=5)
    two = add_instance(one, defect="pit", mask=block(2, 3), left=9, top=5)
    assert remove_instance(two, 2).instances == one.instances
    assert [instance.id for instance in remove_instance(two, 1).instances] == [2]
    assert [
        instance.id
        for instance in add_instance(remove_instance(two, 1), defect="pit", mask=block(1, 1), left=0, top=0).instances
    ] == [2, 3]


def test_removing_what_is_not_there_names_the_known_ids(empty):
    one = add_instance(empty, defect="pit", mask=block(2, 3), left=4, top=5)
    with pytest.raises(ValueError, match="no instance 7; its ids: 1"):
        remove_instance(one, 7)


def test_an_instance_outside_the_image_is_refused(empty):
    with pytest.raises(ValueError, match="the image is 30×20"):
        add_instance(empty, defect="pit", mask=block(2, 3), left=28, top=5)


def test_class_map_holds_the_topmost_class_counted_from_one(empty):
    layout = add_instance(empty, defect="pit", mask=block(4, 4), left=2, top=2)
    layout = add_instance(layout, defect="dent", mask=block(2, 2), left=4, top=4)
    indices = class_map(layout, ["dent", "pit"])
    wanted = np.zeros((20, 30), np.uint8)
    wanted[2:6, 2:6] = 2
    wanted[4:6, 4:6] = 1
    assert indices.dtype == np.uint8
    np.testing.assert_array_equal(indices, wanted)
    np.testing.assert_array_equal(indices > 0, layout.foreground)


def test_class_map_refuses_unknown_and_too_many_classes(empty):
    layout = add_instance(empty, defect="pit", mask=block(4, 4), left=2, top=2)
    with pytest.raises(ValueError, match="'pit' is not among the classes dent"):
        class_map(layout, ["dent"])
    with pytest.raises(ValueError, match="at most 255"):
        class_map(layout, [str(i) for i in range(256)])
