import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastsynth.config import parse_config
from fastsynth.halo import grow
from fastsynth.images import read_image, read_mask
from fastsynth.layouts.masks import warp_coordinates
from fastsynth.layouts.parts import RealMask, RealPart, free_outline, part_weights, tight_box
from fastsynth.layouts.sampler import MOST_PARTS, LayoutConfig, LayoutSampler

TILES = Path(__file__).resolve().parents[2] / "data" / "magnetic_tile"
BACKGROUND = np.full((120, 160, 1), 128, np.uint8)


def ellipse(shape, centre, axes):
    return cv2.ellipse(np.zeros(shape, np.uint8), centre, axes, 20, 0, 360, 1, cv2.FILLED) > 0


def masks():
    rim = np.zeros((120, 160), bool)
    rim[40:70, :12] = True
    return [
        RealMask("gt/dent/1_mask.png", "dent", ellipse((120, 160), (60, 50), (20, 9))),
        RealMask("gt/dent/2_mask.png", "dent", ellipse((120, 160), (100, 90), (7, 6))),
        RealMask("gt/break/1_mask.png", "break", rim),
        RealMask("gt/void/1_mask.png", "void", np.zeros((120, 160), bool)),
    ]


def sampler(**changes):
    return LayoutSampler(masks(), **{**LayoutConfig().model_dump(), **changes})


def same(first, second):
    return len(first.instances) == len(second.instances) and all(
        a.bbox == b.bbox and a.warp == b.warp and a.shape_source == b.shape_source and np.array_equal(a.mask, b.mask)
        for a, b in zip(first.instances, second.instances, strict=True)
    )


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    defect=st.sampled_from(["dent", "break", "void", "never seen"]),
    same_class=st.booleans(),
    rotation=st.sampled_from([(-20.0, 20.0), (-180.0, 180.0)]),
)
def test_layouts_hold_their_laws(seed, defect, same_class, rotation):
    drawing = sampler(instances_range=(1, 3), same_class=same_class, rotation_range=rotation)
    layout = drawing.draw(BACKGROUND, "good/1.png", "plate", defect, np.random.default_rng(seed))
    again = drawing.draw(BACKGROUND, "good/1.png", "plate", defect, np.random.default_rng(seed))
    assert same(layout, again)
    assert (layout.source, layout.category) == ("good/1.png", "plate")
    assert [instance.id for instance in layout.instances] == list(range(1, len(layout.instances) + 1))
    assert layout.instances[0].defect == defect
    assert not same_class or layout.defect == defect
    assert sum(instance.area for instance in layout.instances) == layout.foreground.sum()  # nothing overlaps
    for instance in layout.instances:
        assert tight_box(instance.mask) == (0, 0, *instance.mask.shape[::-1])
        if instance.warp is None:
            assert instance.shape_source.startswith("procedural:")
        else:
            assert instance.shape_source == instance.warp.source


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32), defect=st.sampled_from(["dent", "never seen"]))
def test_a_halo_lies_around_the_same_shape(seed, defect):
    bare, wide = (
        sampler(halo=halo, margin=4).draw(BACKGROUND, "good/1.png", "plate", defect, np.random.default_rng(seed))
        for halo in (0, 2)
    )
    inner, outer = bare.instances[0], wide.instances[0]
    assert np.array_equal(outer.mask, grow(np.pad(inner.mask, 2), 2))
    assert outer.shape_source == inner.shape_source


def test_with_a_halo_a_break_still_lies_on_the_frame():
    drawing = sampler(halo=2, flip=False, rotation_range=(0, 0), procedural_share=0.0, source_position_share=1.0)
    for seed in range(10):
        layout = drawing.draw(BACKGROUND, "good/1.png", "plate", "break", np.random.default_rng(seed))
        assert layout.instances[0].left == 0
        assert layout.instances[0].mask[:, 0].sum() > 10


def test_the_order_of_draws_changes_nothing():
    drawing = sampler()
    first = [drawing.draw(BACKGROUND, "a", "b", "dent", np.random.default_rng(seed)) for seed in range(6)]
    second = [sampler().draw(BACKGROUND, "a", "b", "dent", np.random.default_rng(seed)) for seed in range(5, -1, -1)]
    assert all(same(a, b) for a, b in zip(first, reversed(second), strict=True))


def test_shapes_stay_inside_the_given_region():
    region = ellipse((120, 160), (80, 60), (50, 35))
    drawing = sampler(min_inside=1.0, margin=3)
    eroded = cv2.erode(region.astype(np.uint8), np.ones((7, 7), np.uint8)) > 0
    for seed in range(20):
        layout = drawing.draw(BACKGROUND, "a", "b", "dent", np.random.default_rng(seed), region=region)
        assert not (layout.foreground & ~eroded).any()


def test_the_warp_of_an_instance_leads_to_its_real_mask():
    drawing = sampler(procedural_share=0.0, thickness_range=(0, 0), source_position_share=1.0)
    sources = {mask.source: mask.foreground for mask in masks()}
    for seed in range(20):
        for defect in ("dent", "break"):
            layout = drawing.draw(BACKGROUND, "a", "b", defect, np.random.default_rng(seed))
            (instance,) = layout.instances
            foreground = sources[instance.warp.source].astype(np.float32)
            map_x, map_y = warp_coordinates(instance.warp, instance.mask.shape)
            wanted = cv2.remap(foreground, map_x, map_y, cv2.INTER_LINEAR) >= 0.5
            difference = (wanted ^ instance.mask).astype(np.uint8)
            assert not cv2.erode(difference, np.ones((3, 3), np.uint8), borderValue=0).any()


def test_a_break_at_the_rim_stays_at_the_rim():
    drawing = sampler(procedural_share=0.0, source_position_share=1.0, flip=False)
    for seed in range(20):
        (instance,) = drawing.draw(BACKGROUND, "a", "b", "break", np.random.default_rng(seed)).instances
        assert instance.left == 0
        assert instance.mask[:, 0].sum() >= 0.4 * instance.mask.sum(axis=0).max()
        assert 0.2 < (instance.top + instance.mask.shape[0] / 2) / 120 < 0.7


def test_what_the_frame_had_cut_lies_on_the_frame_wherever_it_goes():
    drawing = sampler(procedural_share=0.0, source_position_share=0.0, flip=False)
    tops = set()
    for seed in range(20):
        (instance,) = drawing.draw(BACKGROUND, "a", "b", "break", np.random.default_rng(seed)).instances
        assert instance.left == 0
        tops.add(instance.top)
    assert max(tops) - min(tops) > 40
    clear_of_the_frame = np.zeros((120, 160), bool)
    clear_of_the_frame[30:100, 40:130] = True
    layout = drawing.draw(BACKGROUND, "a", "b", "break", np.random.default_rng(0), region=clear_of_the_frame)
    assert layout.instances[0].left >= 30


@pytest.mark.parametrize("procedural_share", [0.0, 1.0])
def test_a_type_that_keeps_to_the_rim_goes_nowhere_else(procedural_share):
    chips = [RealMask(f"{top}.png", "chip", ellipse((120, 160), (8, top), (6, 4))) for top in range(12, 110, 12)]
    free = {"procedural_share": procedural_share, "source_position_share": 0.0, "flip": False, "position_jitter": 0.01}
    drawing = LayoutSampler(chips, **{**LayoutConfig().model_dump(), **free})
    for seed in range(20):
        (instance,) = drawing.draw(BACKGROUND, "a", "b", "chip", np.random.default_rng(seed)).instances
        assert instance.left < 16


def test_what_ran_from_side_to_side_does_so_in_a_wider_image():
    """Twice as wide and more than that: then it cannot be stretched and touches one side."""
    lower_half = np.zeros((80, 60), bool)
    lower_half[40:] = True
    drawing = LayoutSampler(
        [RealMask("gt/uneven/1_mask.png", "uneven", lower_half)],
        **{**LayoutConfig().model_dump(), "procedural_share": 0.0, "rotation_range": (-5.0, 5.0)},
    )
    for width, spans in ((60, True), (90, True), (400, False)):
        image = np.full((100, width, 1), 128, np.uint8)
        for seed in range(10):
            (instance,) = drawing.draw(image, "a", "b", "uneven", np.random.default_rng(seed)).instances
            across = instance.mask.shape[1]
            assert (across == width) == spans
            assert instance.left == 0 or instance.left + across == width


def test_a_type_without_real_masks_is_drawn_procedurally_from_its_configured_kinds():
    drawing = sampler(procedural_kinds={"new": ("scratch",)})
    for seed in range(8):
        (instance,) = drawing.draw(BACKGROUND, "a", "b", "new", np.random.default_rng(seed)).instances
        assert instance.shape_source == "procedural:scratch"
        assert instance.warp is None


def test_procedural_share_is_the_share_of_procedural_shapes():
    drawing = sampler(procedural_share=0.3)
    drawn = [drawing.draw(BACKGROUND, "a", "b", "dent", np.random.default_rng(seed)) for seed in range(120)]
    assert sum(layout.instances[0].warp is None for layout in drawn) / 120 == pytest.approx(0.3, abs=0.1)


def test_what_the_frame_cut_off_is_never_made_up():
    drawing = sampler(procedural_share=1.0)
    for seed in range(20):
        rng = np.random.default_rng(seed)
        assert drawing.draw(BACKGROUND, "a", "b", "break", rng).instances[0].shape_source == "gt/break/1_mask.png"


def test_a_shape_too_large_for_the_image_shrinks_until_it_fits():
    small = np.full((24, 30, 3), 128, np.uint8)
    layout = sampler(procedural_share=0.0).draw(small, "a", "b", "dent", np.random.default_rng(1))
    assert layout.foreground.any()


def test_no_place_at_all_is_one_clear_line():
    nowhere = np.zeros((120, 160), bool)
    with pytest.raises(ValueError, match=r"good/7.png: no place for a 'dent' on 160×120 px") as error:
        sampler().draw(BACKGROUND, "good/7.png", "b", "dent", np.random.default_rng(0), region=nowhere)
    assert "\n" not in str(error.value)


def test_crumbs_beside_real_defects_are_left_out():
    foreground = ellipse((120, 160), (60, 50), (20, 9))
    foreground[110, 150] = True
    drawing = LayoutSampler([RealMask("m", "dent", foreground)], **LayoutConfig().model_dump())
    assert len(drawing.parts["dent"]) == 1


def test_masks_are_drawn_alike_and_the_parts_of_one_by_their_areas():
    """Three specks beside a long crack are a part of that crack's look, not three cracks."""
    crack, other = np.zeros((120, 160), bool), np.zeros((120, 160), bool)
    crack[10:110, 20:23] = other[40:43, 20:120] = True
    for y in (20, 60, 100):
        crack[y : y + 5, 100:105] = True
    found = [RealMask("gt/1.png", "crack", crack), RealMask("gt/2.png", "crack", other)]
    settings = {**LayoutConfig().model_dump(), "procedural_share": 0.0}
    drawing = LayoutSampler(found, **settings | {"instances_range": (1, 1)})
    drawn = [
        drawing.draw(BACKGROUND, "n", "c", "crack", np.random.default_rng(seed)).instances[0] for seed in range(400)
    ]
    specks = sum(instance.area < 100 for instance in drawn) / 400
    second = sum(instance.warp.source == "gt/2.png" for instance in drawn) / 400
    assert specks == pytest.approx(0.5 * 75 / 375, abs=0.05)
    assert second == pytest.approx(0.5, abs=0.08)


def test_a_layout_has_as_many_instances_as_a_real_mask_has_parts_each_in_the_likeness_of_one():
    triple, single = np.zeros((120, 160), bool), np.zeros((120, 160), bool)
    triple[20:24, 20:60] = triple[90:110, 20:24] = triple[60:66, 120:126] = single[40:52, 60:90] = True
    found = [RealMask("gt/1.png", "pit", triple), RealMask("gt/2.png", "pit", single)]
    # nothing is bent, turned or scaled, so that areas tell the parts
    exact = {"scale_range": (1.0, 1.0), "rotation_range": (0.0, 0.0), "elastic": 0.0, "thickness_range": (0, 0)}
    drawing = LayoutSampler(found, **{**LayoutConfig().model_dump(), "procedural_share": 0.0, **exact})
    layouts = [drawing.draw(BACKGROUND, "n", "c", "pit", np.random.default_rng(seed)) for seed in range(60)]
    areas = {tuple(instance.area for instance in layout.instances) for layout in layouts}
    assert areas == {(160, 80, 36), (360,)}
    assert 15 <= sum(len(layout.instances) == 1 for layout in layouts) <= 45  # masks alike, however many parts


def test_the_parts_of_a_mask_keep_their_arrangement_wherever_they_go():
    pair = np.zeros((120, 160), bool)
    pair[20:26, 20:26] = pair[50:56, 20:26] = True  # 30 px one above the other
    still = {"source_position_share": 0.0, "position_jitter": 0.01, "procedural_share": 0.0}
    drawing = LayoutSampler([RealMask("gt/1.png", "pit", pair)], **{**LayoutConfig().model_dump(), **still})
    middles = []
    for seed in range(40):
        layout = drawing.draw(BACKGROUND, "n", "c", "pit", np.random.default_rng(seed))
        middles.append([np.add(instance.bbox[:2], instance.bbox[2:]) / 2 for instance in layout.instances])
    firsts, apart = np.array([first for first, _ in middles]), np.array([b - a for a, b in middles])
    assert (firsts.std(axis=0) > 20).all()
    assert np.abs(apart[:, 0]).max() <= 8
    # in one of two the first is the lower one, and what would lie beyond the image lies at its border
    assert np.median(np.abs(apart[:, 1])) == pytest.approx(30, abs=4)


def test_of_a_mask_with_very_many_parts_the_largest_are_repeated():
    specks = np.zeros((120, 160), bool)
    for number in range(12):
        specks[10 * number : 10 * number + 2, 60:62] = True
    specks[100:108, 20:28] = True
    layout = LayoutSampler([RealMask("gt/1.png", "pit", specks)], **LayoutConfig().model_dump()).draw(
        BACKGROUND, "n", "c", "pit", np.random.default_rng(0)
    )
    assert len(layout.instances) == MOST_PARTS
    assert layout.instances[0].area > 3 * layout.instances[1].area


def test_pieces_are_drawn_alike_however_often_they_were_photographed():
    def part(source, group, width=4):
        return RealPart(source, "dent", np.ones((4, width), bool), 10, 10, (64, 64), group)

    parts = [part("a.png", "one"), part("b.png", "one"), part("b.png", "one", 12), part("c.png", "two")]
    own = [part("one", None), part("d.png", None)]  # a mask without a group is none of the group of that name
    weights = part_weights(parts + own) * 4
    assert weights == pytest.approx([1 / 2, 1 / 2 * 1 / 4, 1 / 2 * 3 / 4, 1, 1, 1])


def test_the_more_of_an_outline_the_frame_cut_the_less_often_the_shape_is_drawn():
    """10×40 px: along the left side of a picture, across its middle from side to side, at a corner, all over it."""
    side = RealPart("a.png", "dent", np.ones((40, 10), bool), 0, 10, (64, 64))
    across = RealPart("b.png", "dent", np.ones((10, 40), bool), 0, 10, (64, 40))
    corner = RealPart("c.png", "dent", np.ones((40, 10), bool), 54, 24, (64, 64))
    full = RealPart("d.png", "dent", np.ones((40, 10), bool), 0, 0, (40, 10))
    assert [free_outline(part) for part in (side, across, corner, full)] == pytest.approx([0.6, 0.8, 0.5, 0.0])
    assert part_weights([side, across, corner]) == pytest.approx(np.array([36, 64, 25]) / 125)
    assert part_weights([full, full]) == pytest.approx([0.5, 0.5])  # nothing else is known


def test_a_descending_range_and_an_unknown_kind_are_refused():
    with pytest.raises(ValueError, match="the first value is above the second"):
        parse_config(LayoutConfig, {"scale_range": [2, 1]}, source="x.yaml")
    with pytest.raises(ValueError, match="procedural_kinds"):
        parse_config(LayoutConfig, {"procedural_kinds": {"dent": ["star"]}}, source="x.yaml")


def test_the_config_needs_no_torch():
    code = "import sys, fastsynth.layouts.sampler, fastsynth.sheets; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.data
@pytest.mark.skipif(not TILES.is_dir(), reason="data/magnetic_tile is not here")
def test_every_real_defect_type_finds_a_place_on_real_tiles():
    real = [
        RealMask(path.name, folder.name, read_mask(path))
        for folder in sorted((TILES / "ground_truth").iterdir())
        for path in sorted(folder.iterdir())[::6]
    ]
    drawing = LayoutSampler(real, **LayoutConfig().model_dump())
    backgrounds = [read_image(path) for path in sorted((TILES / "train" / "good").iterdir())[::90]]
    for seed, background in enumerate(backgrounds):
        for defect in ("blowhole", "break", "crack", "fray", "uneven"):
            assert drawing.draw(background, "a", "b", defect, np.random.default_rng(seed)).defect == defect
