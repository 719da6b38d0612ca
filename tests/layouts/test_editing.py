"""Laws of the pure edits: taking one back is exact, the others stay as they were, what cannot be is one clear line."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from fastsynth.layouts import editing
from fastsynth.layouts.layout import class_map, find_instance, remove_instance
from fastsynth.layouts.masks import warp_coordinates
from fastsynth.types import (
    CentreStyle,
    Instance,
    Layout,
    ReferenceStyle,
    SeedStyle,
    Warp,
    instance_seed,
    sample_seed,
)

SIZE = 40, 60
WARP = Warp("gt/1.png", (1.1, 0.2, 3.0, -0.1, 0.9, 5.0), seed=3, amplitude=2.0)
SHAPE = np.array([[0, 1, 1, 1], [1, 1, 0, 0], [1, 0, 0, 0]], bool)


def three() -> Layout:
    """Ids 1, 2, 3; 1 and 2 overlap, 2 has a warp."""
    block = np.ones((6, 8), bool)
    found = (
        Instance(1, "pit", block, 5, 5),
        Instance(2, "dent", SHAPE, 10, 8, warp=WARP, shape_source="gt/1.png"),
        Instance(3, "pit", block, 40, 20, style=CentreStyle(4)),
    )
    return Layout(np.zeros((*SIZE, 1), np.uint8), "good/1.png", "plate", found)


def same(first: Layout, second: Layout) -> bool:
    return np.array_equal(first.instance_map(), second.instance_map()) and np.array_equal(
        class_map(first, ["pit", "dent"]), class_map(second, ["pit", "dent"])
    )


shapes = st.builds(
    lambda seed, height, width: np.random.default_rng(seed).random((height, width)) < 0.5,
    st.integers(0, 1000),
    st.integers(1, 12),
    st.integers(1, 12),
).filter(np.any)


@settings(max_examples=30, deadline=None)
@given(shapes, st.integers(0, 48), st.integers(0, 28))
def test_an_added_mask_is_where_it_was_put_and_removing_it_is_the_identity(mask, left, top):
    layout = three()
    added = editing.add_shape(layout, defect="dent", mask=mask, left=left, top=top)
    wanted = np.zeros(SIZE, bool)
    wanted[top : top + mask.shape[0], left : left + mask.shape[1]] = mask
    np.testing.assert_array_equal(added.instance_map() == 4, wanted)
    assert added.instances[-1].mask.any(axis=0)[[0, -1]].all()
    assert added.instances[-1].mask.any(axis=1)[[0, -1]].all()
    back = remove_instance(added, 4)
    assert same(back, layout)
    assert back.instances == layout.instances


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 3), st.integers(-4, 4), st.integers(-4, 4))
def test_there_and_back_is_the_identity_and_the_others_stay(id, dx, dy):
    layout = three()
    there = editing.move_instance(layout, id, dx=dx, dy=dy)
    moved, old = find_instance(there, id), find_instance(layout, id)
    assert (moved.left, moved.top) == (old.left + dx, old.top + dy)
    assert (moved.warp, moved.style, moved.defect) == (old.warp, old.style, old.defect)
    assert [i for i in there.instances if i.id != id] == [i for i in layout.instances if i.id != id]
    assert same(editing.move_instance(there, id, dx=-dx, dy=-dy), layout)
    assert same(layout, three())


@settings(max_examples=30, deadline=None)
@given(shapes, st.integers(-10, 60), st.integers(-10, 40))
def test_masks_of_a_sample_partition_the_image_and_every_label_is_the_class_of_its_instance(mask, left, top):
    rows, columns = np.mgrid[top : top + mask.shape[0], left : left + mask.shape[1]]
    inside = mask & (rows >= 0) & (rows < SIZE[0]) & (columns >= 0) & (columns < SIZE[1])
    if not np.any(inside):
        with pytest.raises(ValueError, match="nothing is left of instance 4 inside the image"):
            editing.add_shape(three(), defect="dent", mask=mask, left=left, top=top, clip="image")
        return
    layout = editing.add_shape(three(), defect="dent", mask=mask, left=left, top=top, clip="image")
    assert layout.instances[-1].area == np.count_nonzero(inside)
    ids, labels = layout.instance_map(), class_map(layout, ["pit", "dent"])
    parts = [ids == number for number in [0, *(i.id for i in layout.instances)]]
    np.testing.assert_array_equal(np.sum(parts, axis=0), 1)
    for instance in layout.instances:
        assert set(labels[ids == instance.id]) <= {1 + ["pit", "dent"].index(instance.defect)}
    np.testing.assert_array_equal(labels > 0, ids > 0)


def test_a_shape_that_leaves_the_image_is_refused_or_cut_off():
    with pytest.raises(ValueError, match="the image is 60×40"):
        editing.move_instance(three(), 1, dx=-7, dy=0)
    cut = editing.move_instance(three(), 1, dx=-7, dy=0, clip="image")
    assert find_instance(cut, 1).bbox == (0, 5, 6, 11)
    with pytest.raises(ValueError, match="nothing is left of instance 1 inside the image"):
        editing.move_instance(three(), 1, dx=-70, dy=0, clip="image")


def test_a_shape_is_cut_off_at_the_object():
    """A bright plate on black: its region is known exactly."""
    background = np.zeros((60, 60, 1), np.uint8)
    background[15:45, 15:45] = 200
    layout = Layout(background, "a", "b")
    shape = np.ones((20, 20), bool)
    cut = editing.add_shape(layout, defect="pit", mask=shape, left=5, top=20, clip="object")
    x0, y0, x1, y1 = cut.instances[0].bbox
    assert abs(x0 - 15) <= 2  # the region is found on a smoothed picture
    assert (y0, x1, y1) == (20, 25, 40)


def test_what_was_cut_off_keeps_its_place_in_the_source():
    """The warp of every pixel that is left still leads to the same source pixel."""
    layout = three()
    old = find_instance(layout, 2)
    cut = find_instance(editing.move_instance(layout, 2, dx=-11, dy=0, clip="image"), 2)
    before = warp_coordinates(old.warp, old.mask.shape)
    after = warp_coordinates(cut.warp, cut.mask.shape)
    for one, other in zip(before, after, strict=True):
        np.testing.assert_allclose(one[:2, 1:], other, atol=1e-3)


def test_quarter_turns_are_those_of_numpy_and_four_of_them_the_shape_again():
    layout = three()
    for number in range(1, 5):
        layout = editing.turn_instance(layout, 2, degrees=90)
        np.testing.assert_array_equal(find_instance(layout, 2).mask, np.rot90(SHAPE, number))
    assert abs(find_instance(layout, 2).left - 10) <= 1
    assert abs(find_instance(layout, 2).top - 8) <= 1


def test_doubling_repeats_every_pixel():
    doubled = find_instance(editing.turn_instance(three(), 2, scale=2), 2)
    np.testing.assert_array_equal(doubled.mask, SHAPE.repeat(2, axis=0).repeat(2, axis=1))


def test_a_turned_warp_leads_every_pixel_where_it_led_before():
    layout = three()
    instances = tuple(replace(i, warp=replace(WARP, amplitude=0.0)) if i.id == 2 else i for i in layout.instances)
    layout = replace(layout, instances=instances)
    turned = find_instance(editing.turn_instance(layout, 2, degrees=90), 2)
    before = warp_coordinates(layout.instances[1].warp, SHAPE.shape)
    after = warp_coordinates(turned.warp, turned.mask.shape)
    for one, other in zip(before, after, strict=True):
        np.testing.assert_allclose(np.rot90(one), other, atol=1e-4)


@pytest.mark.parametrize(("scale", "message"), [(0, "above 0"), (-1, "above 0"), (17, "at most 16"), (1e-3, "nothing")])
def test_a_scale_that_cannot_be_is_refused(scale, message):
    with pytest.raises(ValueError, match=message):
        editing.turn_instance(three(), 2, scale=scale)


def test_growing_is_opencv_and_shrinking_to_nothing_is_refused():
    layout = three()
    grown = editing.grow_instance(layout, 1, pixels=2)
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (5, 5))
    whole = np.zeros(SIZE, np.uint8)
    whole[5:11, 5:13] = 1
    np.testing.assert_array_equal(remove_instance(grown, 2).instance_map() == 1, cv2.dilate(whole, disc) > 0)
    assert find_instance(editing.grow_instance(layout, 1, pixels=-2), 1).bbox == (7, 7, 11, 9)
    with pytest.raises(ValueError, match="nothing is left of instance 1 after -3 pixels"):
        editing.grow_instance(layout, 1, pixels=-3)
    with pytest.raises(ValueError, match="at most 64"):
        editing.grow_instance(layout, 1, pixels=65)


@settings(max_examples=30, deadline=None)
@given(shapes, st.integers(0, 12), st.integers(0, 99))
def test_bending_moves_no_point_further_than_asked_and_by_nothing_is_the_identity(mask, pixels, seed):
    layout = Layout(np.zeros((80, 80, 1), np.uint8), "a", "b")
    layout = editing.add_shape(layout, defect="pit", mask=np.kron(mask, np.ones((2, 2), bool)), left=25, top=25)
    before, bent = layout.foreground, editing.bend_instance(layout, 1, pixels=pixels, seed=seed)
    assert same(editing.bend_instance(layout, 1, pixels=0, seed=seed), layout)
    assert same(editing.bend_instance(layout, 1, pixels=pixels, seed=seed), bent)
    for inside, outside in ((before, bent.foreground), (bent.foreground, before)):
        assert ndimage.distance_transform_edt(~outside)[inside].max() <= pixels + 1
    rows, columns = ndimage.find_objects(bent.foreground.astype(int))[0]
    assert find_instance(bent, 1).bbox == (columns.start, rows.start, columns.stop, rows.stop)


def test_seeds_and_ids_bend_in_their_own_ways_and_thin_lines_stay_whole():
    layout = Layout(np.zeros((120, 120, 1), np.uint8), "a", "b")
    for left in (40, 80):
        layout = editing.add_shape(layout, defect="pit", mask=np.ones((50, 1), bool), left=left, top=30)
    shapes = [
        find_instance(editing.bend_instance(layout, id, pixels=5, seed=seed), id).mask
        for id, seed in ((1, 0), (1, 1), (2, 0))
    ]
    assert len({mask.tobytes() for mask in shapes}) == 3
    for mask in shapes:
        assert ndimage.label(mask, structure=np.ones((3, 3)))[1] == 1
        assert mask.shape[1] > 1
    moved = editing.bend_instance(editing.move_instance(layout, 1, dx=3, dy=-2), 1, pixels=5)
    np.testing.assert_array_equal(find_instance(moved, 1).mask, shapes[0])


def test_what_bends_out_of_the_image_is_refused_or_cut_off_and_too_much_is_refused():
    layout = Layout(np.zeros((*SIZE, 1), np.uint8), "a", "b")
    layout = editing.add_shape(layout, defect="pit", mask=np.ones(SIZE, bool))
    with pytest.raises(ValueError, match="the image is 60×40"):
        editing.bend_instance(layout, 1, pixels=4)
    cut = find_instance(editing.bend_instance(layout, 1, pixels=4, clip="image"), 1)
    assert 0 < cut.area < 40 * 60
    for pixels in (-1, 65):
        with pytest.raises(ValueError, match="wanted 0 to 64 to bend it by"):
            editing.bend_instance(layout, 1, pixels=pixels)


def test_a_stroke_is_added_and_taken_off_again():
    layout = remove_instance(three(), 2)
    painted = editing.paint_instance(layout, 1, [(20, 8), (30, 8)], width=1)
    assert find_instance(painted, 1).area == 48 + 11
    assert same(editing.paint_instance(painted, 1, [(20, 8), (30, 8)], width=1, erase=True), layout)
    assert find_instance(editing.paint_instance(layout, 1, [(20, 8)], width=1), 1).area == 49
    with pytest.raises(ValueError, match="nothing is left"):
        editing.paint_instance(layout, 1, [(0, 8), (30, 8)], width=31, erase=True)


def test_another_class_keeps_the_shape_and_drops_what_looked_like_the_old_class():
    layout = three()
    changed = find_instance(editing.set_class(layout, 2, "pit"), 2)
    assert (changed.defect, changed.warp, changed.shape_source) == ("pit", None, "gt/1.png")
    np.testing.assert_array_equal(changed.mask, SHAPE)
    assert find_instance(editing.set_class(layout, 3, "dent"), 3).style is None
    seeded = editing.set_style(layout, 3, SeedStyle(9))
    assert find_instance(editing.set_class(seeded, 3, "dent"), 3).style == SeedStyle(9)


def test_a_style_replaces_the_drawn_look_of_its_instance_alone():
    layout = three()
    styled = editing.set_style(layout, 2, ReferenceStyle("test/a.png", 1))
    assert (find_instance(styled, 2).style, find_instance(styled, 2).warp) == (ReferenceStyle("test/a.png", 1), None)
    assert [styled.instances[0], styled.instances[2]] == [layout.instances[0], layout.instances[2]]


def test_restyling_gives_every_free_instance_its_own_seed_and_the_same_one_again():
    layout = editing.lock_instance(three(), 3)
    one, again, other = (editing.restyle_all(layout, seed) for seed in (1, 1, 2))
    styles = [[instance.style for instance in restyled.instances] for restyled in (one, again, other)]
    assert styles[0] == styles[1]
    assert styles[0][2] == styles[2][2] == CentreStyle(4)
    assert len({style.seed for found in (styles[0], styles[2]) for style in found[:2]}) == 4
    looks = editing.looks_of(layout, 3, seed=5)
    assert looks[0] is layout
    assert len({look.instances[0].style for look in looks}) == 3


def test_swapping_exchanges_two_styles_and_asks_for_two():
    layout = editing.set_style(three(), 1, SeedStyle(1))
    swapped = editing.swap_styles(layout, 1, 3)
    assert [instance.style for instance in swapped.instances] == [CentreStyle(4), None, SeedStyle(1)]
    with pytest.raises(ValueError, match="instance 2 has no style of its own"):
        editing.swap_styles(layout, 1, 2)


def test_a_copy_has_a_new_id_and_lies_on_top():
    copied = editing.copy_instance(three(), 2, dx=20, dy=1)
    assert copied.instances[-1].id == 4
    assert copied.instances[-1].bbox == (30, 9, 34, 12)
    assert copied.instances[-1].warp == WARP
    assert copied.instances[:3] == three().instances or same(remove_instance(copied, 4), three())


EDITS = {
    "remove": lambda layout: remove_instance(layout, 2),
    "move": lambda layout: editing.move_instance(layout, 2, dx=1, dy=1),
    "turn": lambda layout: editing.turn_instance(layout, 2, degrees=10),
    "grow": lambda layout: editing.grow_instance(layout, 2, pixels=1),
    "bend": lambda layout: editing.bend_instance(layout, 2, pixels=1),
    "paint": lambda layout: editing.paint_instance(layout, 2, [(1, 1)], width=3),
    "class": lambda layout: editing.set_class(layout, 2, "pit"),
    "style": lambda layout: editing.set_style(layout, 2, None),
    "severity": lambda layout: editing.set_severity(layout, 2, 2.0),
    "swap": lambda layout: editing.swap_styles(layout, 3, 2),
}


@pytest.mark.parametrize("edit", EDITS)
def test_a_locked_instance_refuses_every_edit_until_it_is_unlocked(edit):
    locked = editing.lock_instance(editing.set_style(three(), 2, SeedStyle(1)), 2)
    with pytest.raises(ValueError, match=r"instance 2 of the layout on .* is locked"):
        EDITS[edit](locked)
    EDITS[edit](editing.lock_instance(locked, 2, locked=False))
    with pytest.raises(ValueError, match="no instance 2; its ids: 1, 3"):
        EDITS[edit](remove_instance(three(), 2))


def test_seeds_of_looks_come_from_the_style_or_from_sample_and_id():
    plain, seeded, centre = (
        replace(three().instances[0], style=style) for style in (None, SeedStyle(7), CentreStyle(2))
    )
    assert instance_seed(plain, 5, renderer="x") == sample_seed(5, 1)
    assert instance_seed(seeded, 5, renderer="x") == instance_seed(seeded, 6, renderer="x") == 7
    with pytest.raises(ValueError, match=r"instance 1 \(pit\) has the style CentreStyle\(centre=2\), renderer x knows"):
        instance_seed(centre, 5, renderer="x")
