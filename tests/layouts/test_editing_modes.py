"""Laws of the modes: an edit render changes what was edited and nothing else; a pair differs by its defects alone."""

from dataclasses import replace

import numpy as np
import pytest
from renderer_laws import background, bank, layout_of

from fastsynth.layouts import editing
from fastsynth.layouts.editing_modes import changed_ids, changed_region, edit_render, full_render, paired_render
from fastsynth.layouts.layout import find_instance, remove_instance
from fastsynth.types import CentreStyle, Layout, ReferenceStyle, Renderer, SeedStyle
from generators.reference import ReferenceRenderer, copy_paste, cutpaste

SHAPE = np.ones((6, 9), bool)


@pytest.fixture(params=["cutpaste", "copy_paste"])
def renderer(request) -> Renderer:
    fill = cutpaste(jitter=0.3) if request.param == "cutpaste" else copy_paste(bank(), blend="light")
    return ReferenceRenderer(request.param, fill, context=2.0)


@pytest.fixture
def before() -> Layout:
    """A crack, a dent, and a crack over the dent's corner."""
    return layout_of(background(), ("crack", 5, 5, 20, 6), ("dent", 40, 20, 12, 12), ("crack", 36, 16, 9, 9))


EDITS = {
    "add": lambda layout: editing.add_shape(layout, defect="dent", mask=SHAPE, left=30, top=38),
    "add over another": lambda layout: editing.add_shape(layout, defect="dent", mask=SHAPE, left=8, top=8),
    "remove": lambda layout: remove_instance(layout, 1),
    "remove the one below": lambda layout: remove_instance(layout, 2),
    "remove the one above": lambda layout: remove_instance(layout, 3),
    "move": lambda layout: editing.move_instance(layout, 1, dx=3, dy=2),
    "class": lambda layout: editing.set_class(layout, 1, "dent"),
    "style": lambda layout: editing.set_style(layout, 2, SeedStyle(8)),
    "severity": lambda layout: editing.set_severity(layout, 1, 4.0),
}


def pixels_of(*layouts_and_ids: tuple[Layout, int]) -> np.ndarray:
    region = np.zeros(layouts_and_ids[0][0].size, bool)
    for layout, id in layouts_and_ids:
        found = [instance for instance in layout.instances if instance.id == id]
        for x0, y0, x1, y1, mask in ((*instance.bbox, instance.mask) for instance in found):
            region[y0:y1, x0:x1] |= mask
    return region


@pytest.mark.parametrize("edit", EDITS)
def test_outside_the_changed_instances_the_picture_stays_bit_for_bit(renderer, before, edit):
    picture = np.random.default_rng(9).integers(0, 256, before.background.shape, np.uint8)  # nothing can be like it
    after = EDITS[edit](before)
    (changed,) = changed_ids(before, after)
    (sample,) = edit_render(renderer, before, [after], [5], picture=picture)
    touched = pixels_of((before, changed), (after, changed))
    np.testing.assert_array_equal(sample.image[~touched], picture[~touched])
    assert (sample.image[touched] != picture[touched]).any()
    np.testing.assert_array_equal(sample.mask > 0, after.foreground)
    assert sample.notes == {"mode": "edit", "changed": [changed]}


@pytest.mark.parametrize("edit", EDITS)
def test_an_edit_of_a_render_is_the_render_of_the_edit(renderer, before, edit):
    """Looks hang on instances, not on their number or order: so nothing needs to be drawn again."""
    (picture,) = full_render(renderer, [before], [5])
    after = EDITS[edit](before)
    (edited,) = edit_render(renderer, before, [after], [5], picture=picture.image)
    (drawn,) = full_render(renderer, [after], [5])
    np.testing.assert_array_equal(edited.image, drawn.image)
    back = edit_render(renderer, after, [before], [5], picture=edited.image)[0]
    np.testing.assert_array_equal(back.image, picture.image)


def test_what_lies_on_top_and_did_not_change_is_not_touched(before):
    after = editing.set_style(before, 2, SeedStyle(8))
    region = changed_region(before, after)
    np.testing.assert_array_equal(region, before.instance_map() == 2)
    assert not (region & (before.instance_map() == 3)).any()
    assert not changed_region(before, editing.lock_instance(before, 1)).any()


def test_a_removed_defect_leaves_the_clean_background(renderer, before):
    (picture,) = full_render(renderer, [before], [5])
    empty = replace(before, instances=())
    (sample,) = edit_render(renderer, before, [empty], [5], picture=picture.image)
    np.testing.assert_array_equal(sample.image, before.background)
    assert not sample.mask.any()


def test_without_a_clean_picture_nothing_can_be_taken_away_but_much_can_be_added(renderer, before):
    for edit in ("remove", "move"):
        with pytest.raises(ValueError, match="no picture without it is known"):
            edit_render(renderer, before, [EDITS[edit](before)], [5])
    (sample,) = edit_render(renderer, before, [EDITS["add"](before)], [5])
    np.testing.assert_array_equal(sample.image[before.foreground], before.background[before.foreground])
    edit_render(renderer, before, [EDITS["style"](before)], [5])


def test_many_looks_come_from_one_call_and_differ_inside_alone(before):
    renderer = ReferenceRenderer("cutpaste", cutpaste(jitter=0.3), context=2.0)
    looks = editing.looks_of(before, 4, seed=3)
    samples = edit_render(renderer, before, looks, [5] * 4, picture=before.background)
    assert len({sample.image.tobytes() for sample in samples}) == 4
    for sample in samples[1:]:
        differs = (sample.image != before.background).any(axis=2)
        assert differs[before.foreground].mean() > 0.5
        assert not differs[~before.foreground].any()


def test_a_pair_differs_by_its_defects_alone(renderer, before):
    (pair,) = paired_render(renderer, [before], [5])
    assert pair.with_defects.seed == pair.without.seed == 5
    np.testing.assert_array_equal(pair.without.image, before.background)
    assert not pair.without.mask.any()
    changed = (pair.difference != 0).any(axis=2)
    assert not changed[~before.foreground].any()
    np.testing.assert_array_equal(pair.without.image + pair.difference, pair.with_defects.image)


def test_severity_counts_in_every_mode(before):
    renderer = ReferenceRenderer("copy_paste", copy_paste(bank(), blend="light"), context=2.0)
    mild = editing.set_severity(before, 1, 0.25)
    shown = {}
    for name, layout in (("full", before), ("mild", mild)):
        (shown[name],) = full_render(renderer, [layout], [5])
    inside = pixels_of((before, 1))
    full, weak = (
        np.abs(shown[name].image.astype(float) - before.background)[inside].mean() for name in ("full", "mild")
    )
    assert weak == pytest.approx(full / 2, rel=0.05)
    (edited,) = edit_render(renderer, before, [mild], [5], picture=shown["full"].image)
    np.testing.assert_array_equal(edited.image, shown["mild"].image)


@pytest.mark.parametrize("style", [CentreStyle(1), ReferenceStyle("test/crack/0.png", 2)])
def test_a_renderer_without_a_style_bank_refuses_all_but_seeds(renderer, before, style):
    with pytest.raises(ValueError, match=r"instance 2 \(dent\) has the style .*knows seeds only") as error:
        full_render(renderer, [editing.set_style(before, 2, style)], [5])
    assert len(str(error.value).splitlines()) == 1


def test_a_seed_is_a_look_of_its_own_whatever_the_seed_of_the_sample(before):
    renderer = ReferenceRenderer("cutpaste", cutpaste(jitter=0.3), context=2.0)
    styled = editing.set_style(before, 1, SeedStyle(3))
    first, second = full_render(renderer, [styled, styled], [5, 6])
    inside = pixels_of((styled, 1))
    np.testing.assert_array_equal(first.image[inside], second.image[inside])
    assert (first.image != second.image).any()
    assert find_instance(styled, 1).style == SeedStyle(3)


def test_pictures_that_do_not_belong_are_refused(renderer, before):
    with pytest.raises(ValueError, match="pass the picture at the background's size and depth"):
        edit_render(renderer, before, [before], [5], picture=before.background.astype(np.uint16))
    other = replace(before, background=background(seed=3))
    with pytest.raises(ValueError, match="an edit keeps the background"):
        changed_region(before, other)
