"""Every rule of the gate against what it is said to measure: the value, the limit itself, and its neighbours."""

from dataclasses import replace

import cv2
import numpy as np
import pytest

from fastsynth.layouts.exemplar import Exemplar
from fastsynth.layouts.placement import object_region
from fastsynth.quality import gate_measures as measures
from fastsynth.quality.fingerprints import max_bits
from fastsynth.quality.gate import FINGERPRINT, MIN_PIXELS, REASONS, Case, Duplicates, Gate, part_details
from fastsynth.quality.gate_config import GateConfig
from fastsynth.quality.image_metrics import defect_crops, trunk_features

SIZE = 96
EPSILON = 1e-6


def picture(seed: int) -> np.ndarray:
    """(96, 96, 1) uint8: rough ground on a black border, so that not everything is object."""
    rng = np.random.default_rng(seed)
    ground = cv2.GaussianBlur(rng.normal(size=(SIZE, SIZE)), (0, 0), 2)
    image = np.clip(150 + 30 * ground / ground.std(), 60, 255).astype(np.uint8)
    image[:4] = image[-4:] = image[:, -4:] = image[:, :40] = 0
    image[0, -1] = 255  # the whole range, so that 16-bit twins are shown alike
    return image[..., None]


def spot(x: int, y: int, radius: int) -> np.ndarray:
    return cv2.circle(np.zeros((SIZE, SIZE), np.uint8), (x, y), radius, 1, -1) > 0


def marked(seed: int, foreground: np.ndarray, tone: int) -> np.ndarray:
    """The picture with its tone changed inside, and a texture of its own there."""
    source = picture(seed)
    grain = np.random.default_rng(seed + 100).normal(0, 12, source.shape)
    changed = np.clip(source + (grain + tone), 0, 255).astype(np.uint8)
    return np.where(foreground[..., None], changed, source)


def exemplar(seed: int, defect: str, tone: int, *, category: str = "plate") -> Exemplar:
    foreground = spot(50 + seed, 50, 9 + seed)
    return Exemplar(marked(seed, foreground, tone), foreground, category, defect, f"{category}/{defect}/{seed}")


@pytest.fixture(scope="module")
def real() -> list[Exemplar]:
    return [
        exemplar(1, "pit", -60),
        exemplar(2, "pit", -35),
        exemplar(3, "stain", 25),
        exemplar(4, "stain", 12),
        exemplar(5, "scratch", 70, category="cloth"),
    ]


@pytest.fixture(scope="module")
def case() -> Case:
    """Partly off the object, partly changed beside the mask."""
    foreground = spot(43, 40, 7)
    image = marked(9, spot(45, 40, 7), -90)
    return Case(picture(9), image, foreground, "plate", "pit", "fast")


def judged(real: list[Exemplar], case: Case, **rules: dict) -> tuple[dict, tuple[str, ...]]:
    """Measures and reasons under exactly these rules, with the default limits where none is given."""
    config = GateConfig().rules() | {"features": {"max_distance": 3.0}}
    gate = Gate(real, rules={name: config[name] | limits for name, limits in rules.items()})
    verdict = gate.judge(case, sample_id=0, stored=None)
    return verdict.measures, verdict.reasons


def test_the_measures_are_those_of_the_definitions(real, case):
    change = measures.change(case.source, case.image, case.foreground)
    contrast = GateConfig().visible.min_contrast
    step = measures.border_step(case.image, case.foreground)
    of_real = np.concatenate(
        [
            measures.turned(part)
            for one in real
            if one.category == "plate"
            for part in part_details(one.image, one.foreground)
        ]
    )
    features = trunk_features(
        defect_crops(
            [*(one.image for one in real[:4]), case.image], [*(one.foreground for one in real[:4]), case.foreground]
        )
    )
    between = np.linalg.norm(features[:, None] - features[None], axis=2)
    nearest = [min(between[k, j] for j in range(4) if j != k) for k in range(4)]
    wanted = {
        "area": case.foreground.sum(),
        "on_object": object_region(case.source)[case.foreground].mean(),
        "visible": measures.visible_share(change, min_contrast=contrast),
        "edge": step / measures.border_step(case.source, case.foreground),
        "outside": measures.outside_share(change, min_contrast=contrast),
        "offset": measures.offset(change, min_contrast=contrast),
        "border_step": step,
        "training_similarity": max(
            measures.similarity(part, of_real).max() for part in part_details(case.image, case.foreground)
        ),
        "feature_distance": between[4, :2].min() / np.median(nearest),
    }
    everything = {name: {} for name in REASONS if name != "duplicates"} | {"visible": {"sure_share": 1.0}}
    found, _ = judged(real, case, **everything)
    assert found.pop(FINGERPRINT) == f"{measures.fingerprint(measures.detail(case.image, case.foreground)):064x}"
    assert found == {key: round(float(value), 4) for key, value in wanted.items()}
    assert 0 < found["on_object"] < 1
    assert found["outside"] > 0


def limits_of(real: list[Exemplar], case: Case) -> list[tuple[str, str, float, int]]:
    """Rule, limit, the value at which this very case still passes, and the side on which it does not."""
    change = measures.change(case.source, case.image, case.foreground)
    contrast = GateConfig().visible.min_contrast
    alike = max(
        measures.similarity(
            part,
            np.concatenate([measures.turned(p) for one in real[:4] for p in part_details(one.image, one.foreground)]),
        ).max()
        for part in part_details(case.image, case.foreground)
    )
    return [
        ("mask", "min_area", int(case.foreground.sum()), 1),
        ("object", "min_inside", float(object_region(case.source)[case.foreground].mean()), 1),
        ("visible", "min_share", measures.visible_share(change, min_contrast=contrast), 1),
        ("alignment", "max_outside", measures.outside_share(change, min_contrast=contrast), -1),
        ("alignment", "max_offset", measures.offset(change, min_contrast=contrast), -1),
        ("seam", "min_step", measures.border_step(case.image, case.foreground), -1),
        ("seam", "ground_ratio", case.step / measures.border_step(case.source, case.foreground), -1),
        ("copies", "max_similarity", float(alike), -1),
        ("features", "max_distance", Gate(real, rules={})._feature_distance(case), -1),
    ]


@pytest.mark.parametrize("place", range(9))
def test_the_limit_itself_is_kept_and_its_neighbour_is_not(place, real, case):
    rule, limit, value, sign = limits_of(real, case)[place]
    generous = {
        "visible": {"sure_share": 0.0},
        "alignment": {"max_outside": 9.0, "max_offset": 9.0},
        "seam": {"min_step": 0.0, "max_ratio": 1e-9, "ground_ratio": 0.0},
    }.get(rule, {})
    beyond = value + sign * (1 if rule == "mask" else EPSILON)
    assert judged(real, case, **{rule: generous | {limit: value}})[1] == ()
    assert judged(real, case, **{rule: generous | {limit: beyond}})[1] == (REASONS[rule],)


@pytest.mark.parametrize(("defect", "strongest"), [("pit", "pit"), ("stain", "stain"), ("never seen", None)])
def test_a_step_is_compared_with_the_largest_of_its_type_else_of_its_category(defect, strongest, real, case):
    steps = {
        one.source: measures.border_step(one.image, one.foreground)
        for one in real
        if one.category == "plate" and strongest in (None, one.defect)
    }
    ratio = measures.border_step(case.image, case.foreground) / max(steps.values())
    of_type = replace(case, defect=defect)
    for limit, said in ((ratio + EPSILON, ()), (ratio - EPSILON, (REASONS["seam"],))):
        assert judged(real, of_type, seam={"min_step": 0.0, "max_ratio": limit, "ground_ratio": 0.0})[1] == said


def test_of_a_category_without_training_defects_nothing_is_near(real, case):
    strange = replace(case, category="wood")
    found, reasons = judged(real, strange, copies={}, features={}, seam={"min_step": 0.0, "ground_ratio": 0.0})
    assert (found["training_similarity"], found["feature_distance"]) == (0.0, 0.0)
    assert reasons == (REASONS["seam"],)
    assert judged(real, replace(case, category="cloth"), features={})[0]["feature_distance"] == 0.0  # one has no other


def test_features_are_compared_with_the_type_else_with_the_category(real, case):
    distances = {}
    for defect in ("pit", "stain", "never seen"):
        distances[defect] = judged(real, replace(case, defect=defect), features={})[0]["feature_distance"]
    assert distances["never seen"] == min(distances["pit"], distances["stain"])
    assert distances["pit"] != distances["stain"]


def test_features_of_sixteen_bit_defects_are_those_of_their_values(real, case):
    wide = [replace(one, image=one.image.astype(np.uint16) * 257) for one in real]
    assert judged(wide, case, features={})[0] == judged(real, case, features={})[0]


def test_defects_of_which_the_surroundings_alone_are_held_count_as_in_their_pictures(real, case):
    """Of 16 bit, where a crop's own range is not its picture's."""
    whole = []
    for one in real:
        image = np.zeros((SIZE, 1000, 1), np.uint16)
        image[:, :SIZE] = one.image.astype(np.uint16) * 200
        image[0, -1] = 65535
        whole.append(replace(one, image=image, foreground=np.pad(one.foreground, ((0, 0), (0, 1000 - SIZE)))))
    held = [one.without_the_rest(context=1.0) for one in whole]
    assert all(one.image.max() < 65535 for one in held)
    asked = {"copies": {}, "features": {}, "seam": {"min_step": 0.0, "ground_ratio": 0.0}}
    assert judged(held, case, **asked) == judged(whole, case, **asked)


def test_equal_features_are_no_division_by_zero(real, case):
    twins = [real[0], replace(real[0], source="plate/pit/twin")]
    assert judged(twins, case, features={})[0]["feature_distance"] > 1e3


def test_seams_and_duplicates_are_asked_from_the_smallest_size_on(real):
    def of_size(pixels: int) -> Case:
        foreground = np.zeros((SIZE, SIZE), bool)
        foreground[40:48, 40:49].flat[:pixels] = True
        return Case(picture(9), marked(9, foreground, 90), foreground, "plate", "pit", "fast")

    for pixels, asked in ((MIN_PIXELS - 1, False), (MIN_PIXELS, True)):
        case = of_size(pixels)
        measured, reasons = judged(real, case, seam={"min_step": 0.0, "max_ratio": 0.0, "ground_ratio": 0.0})
        assert ("border_step" in measured) == asked
        assert reasons == ((REASONS["seam"],) if asked else ())
        gate = Gate(real, rules=GateConfig().rules())
        stored = Duplicates(lambda _, case=case: (case.image, case.foreground), max_similarity=0.9)
        stored.add(0, measures.fingerprint(measures.detail(case.image, case.foreground)))
        found = {"area": float(pixels), FINGERPRINT: judged(real, case)[0][FINGERPRINT]}
        verdict = gate.judge_duplicate(
            found, lambda case=case: (case.image, case.foreground), sample_id=1, stored=stored
        )
        assert verdict.reasons == ((REASONS["duplicates"],) if asked else ())
        assert len(part_details(case.image, case.foreground)) == int(asked)


def test_a_duplicate_is_one_above_the_limit_and_the_similarity_is_kept(case):
    def ask(limit: float) -> tuple[dict, tuple[str, ...]]:
        gate = Gate([], rules={"duplicates": {"max_similarity": limit}})
        stored = gate.duplicates(lambda _: (other, case.foreground))
        assert stored._marks.max_bits == max_bits(limit)
        stored.add(3, measures.fingerprint(measures.detail(other, case.foreground)))
        verdict = gate.judge(case, sample_id=4, stored=stored)
        return verdict.measures, verdict.reasons

    noise = np.random.default_rng(0).normal(0, 9, case.image.shape)
    other = np.clip(case.image + noise, 0, 255).astype(np.uint8)
    alike = float(np.vdot(measures.detail(case.image, case.foreground), measures.detail(other, case.foreground)))
    assert 0.5 < alike < 0.99
    found, reasons = ask(alike)
    assert (found["sample_similarity"], reasons) == (round(alike, 4), ())
    assert ask(alike - EPSILON)[1] == (REASONS["duplicates"],)


def test_beside_nothing_nothing_is_alike(case):
    stored = Duplicates(lambda number: pytest.fail(f"sample {number} is not stored"), max_similarity=0.9)
    assert stored.closest(case.image, case.foreground, near=[]) == 0.0


def test_without_stored_ones_nearby_the_picture_is_not_asked_for(case):
    gate = Gate([], rules={"duplicates": {"max_similarity": 0.9}})
    stored = gate.duplicates(lambda number: pytest.fail(f"sample {number} is not stored"))
    found = {"area": 300.0, FINGERPRINT: "0" * 64}
    verdict = gate.judge_duplicate(found, lambda: pytest.fail("not needed"), sample_id=1, stored=stored)
    assert verdict.measures == found | {"sample_similarity": 0.0}


@pytest.mark.parametrize(
    ("limits", "kept"),
    [
        ({}, False),  # seen in part of the mask, not strongly, no edge, on calm ground
        ({"sure_contrast": 1e-6}, True),
        ({"min_edge": 1e-6}, True),
        ({"calm_step": 0.0}, True),
        ({"sure_share": 1e-6}, True),
    ],
)
def test_each_of_four_ways_to_be_visible_is_enough(limits, kept, real, case):
    hard = {"min_share": 1e-6, "sure_share": 1.0, "sure_contrast": 1e6, "min_edge": 1e6, "calm_step": 1.0}
    half = np.where(spot(47, 36, 6)[..., None], case.image, case.source)
    faint = replace(case, image=half)
    found, reasons = judged(real, faint, visible=hard | limits)
    assert found["visible"] > 0
    assert reasons == (() if kept else (REASONS["visible"],))


def test_strong_change_counts_from_the_least_share_on(real, case):
    half = replace(case, image=np.where(spot(47, 36, 6)[..., None], case.image, case.source))
    share = measures.visible_share(measures.change(half.source, half.image, half.foreground), min_contrast=3.0)
    assert 0 < share < 1
    hard = {"min_contrast": 3.0, "sure_contrast": 3.0, "sure_share": 1.0, "min_edge": 1e6, "calm_step": 1.0}
    assert judged(real, half, visible=hard | {"min_share": share})[1] == ()


def test_parts_are_told_apart_by_eight_neighbours():
    foreground = np.zeros((SIZE, SIZE), bool)
    foreground[40:48, 40:48] = foreground[48:56, 48:56] = True  # they touch at a corner
    foreground[70:80, 70:80] = True
    image = marked(9, foreground, 60)
    together, alone = np.zeros_like(foreground), np.zeros_like(foreground)
    together[:60, :60], alone[60:, 60:] = foreground[:60, :60], foreground[60:, 60:]
    found = part_details(image, foreground)
    assert len(found) == 2
    np.testing.assert_array_equal(found[0], measures.detail(image, together))
    np.testing.assert_array_equal(found[1], measures.detail(image, alone))


@pytest.mark.parametrize(("side", "kept"), [(1, False), (2, False), (3, True), (4, True)])
def test_where_real_defects_are_specks_samples_may_be(real, side, kept):
    """12 pixels are too many for pinholes of 3×3: half of the smallest one is the limit then."""
    holes = []
    for seed in (3, 4):
        foreground = np.zeros((SIZE, SIZE), bool)
        foreground[50 : 50 + seed, 60 : 60 + seed] = True  # 9 and 16 pixels
        holes.append(Exemplar(marked(seed, foreground, -90), foreground, "plate", "pinhole", f"plate/pinhole/{seed}"))
    foreground = np.zeros((SIZE, SIZE), bool)
    foreground[40 : 40 + side, 70 : 70 + side] = True
    drawn = Case(picture(9), marked(9, foreground, -90), foreground, "plate", "pinhole", "fast")
    _, reasons = judged(real + holes, drawn, mask={})
    assert (reasons == ()) is kept
    _, reasons = judged(real + holes, replace(drawn, defect="pit"), mask={})
    assert (reasons == ()) is (side == 4)  # of large pits such a speck is none
