"""The gate refuses bad samples and lets good ones pass: 200 hand-made bad ones of six kinds on the demo's surfaces."""

from dataclasses import replace

import cv2
import numpy as np
import pytest

from fastsynth.data.demo import CATEGORIES, draw_normal, draw_pair
from fastsynth.layouts.exemplar import Exemplar, ExemplarBank
from fastsynth.layouts.parts import RealMask
from fastsynth.layouts.sampler import LayoutConfig, LayoutSampler
from fastsynth.quality import gate_measures
from fastsynth.quality.fingerprints import max_bits
from fastsynth.quality.gate import FINGERPRINT, REASONS, Case, Duplicates, Gate, fingerprint
from fastsynth.quality.gate_config import GateConfig
from generators.reference import ReferenceRenderer, copy_paste

SIZE = (192, 192)
KINDS = ("shifted mask", "no change", "seam", "training copy", "duplicate", "off object")
LARGE = 64
"""Pixels from which on copies and seams can be told: the gate asks neither of a speck."""


@pytest.fixture(scope="module")
def real() -> list[Exemplar]:
    """Three training defects of each type."""
    rng = np.random.default_rng(1)
    found = []
    for category, defects in CATEGORIES.items():
        for defect in defects:
            for number in range(3):
                _, image, foreground = draw_pair(category, defect, size=SIZE, rng=rng)
                found.append(Exemplar(image, foreground, category, defect, f"{category}/{defect}/{number}"))
    return found


@pytest.fixture(scope="module")
def normals() -> dict[str, list[np.ndarray]]:
    rng = np.random.default_rng(2)
    return {category: [draw_normal(category, size=SIZE, rng=rng) for _ in range(4)] for category in CATEGORIES}


@pytest.fixture(scope="module")
def good(real, normals) -> list[Case]:
    """100 by the copy-paste renderer, all types alike."""
    cases = []
    for category, defects in CATEGORIES.items():
        own = [one for one in real if one.category == category]
        masks = [RealMask(one.source, one.defect, one.foreground) for one in own]
        sampler = LayoutSampler(masks, **LayoutConfig().model_dump())
        renderer = ReferenceRenderer("copy_paste", copy_paste(ExemplarBank(own), blend="light"), context=2.0)
        for number in range(50):
            rng = np.random.default_rng((3, number, len(category)))
            background, defect = normals[category][number % 4], defects[number % len(defects)]
            (sample,) = renderer.render([sampler.draw(background, "n", category, defect, rng)], [number])
            cases.append(Case(background, sample.image, sample.mask > 0, category, defect, "copy_paste"))
    return cases


@pytest.fixture(scope="module")
def gate(real) -> Gate:
    return Gate(real, rules=GateConfig().rules())


def nothing_stored() -> Duplicates:
    return Duplicates(lambda sample_id: pytest.fail(f"sample {sample_id} is not stored"), max_similarity=0.9)


def shifted_mask(good: list[Case], k: int) -> Case:
    """The mask moved by three quarters of its box; every other time only the change inside it is kept."""
    case = [one for one in good if one.foreground.sum() >= LARGE][k]
    _, _, width, height = cv2.boundingRect(case.foreground.astype(np.uint8))
    step = (0, round(0.75 * width)) if width >= height else (round(0.75 * height), 0)
    for sign in (1, -1):
        moved = np.roll(case.foreground, (sign * step[0], sign * step[1]), axis=(0, 1))
        if cv2.boundingRect(moved.astype(np.uint8))[2:] == (width, height):  # not wrapped around
            break
    image = np.where(moved[..., None], case.image, case.source) if k % 2 else case.image
    return replace(case, foreground=moved, image=image)


def no_change(good: list[Case], k: int) -> Case:
    """The source itself, or with fresh noise of two levels that nobody sees, though nearly all pixels differ."""
    case, rng = good[k], np.random.default_rng(k)
    noisy = np.clip(np.rint(case.source + rng.normal(0, 2, case.source.shape)), 0, 255).astype(np.uint8)
    return replace(case, image=np.where(case.foreground[..., None] & (k % 2 == 0), noisy, case.source))


def seam(good: list[Case], k: int) -> Case:
    """A patch of another tone, cut off sharply at the mask."""
    case = [one for one in good if one.foreground.sum() >= LARGE][k]
    offset = -80 if case.source[case.foreground].mean() > 127 else 80
    patch = np.clip(case.source[::-1].astype(int) + offset, 0, 255).astype(np.uint8)
    return replace(case, image=np.where(case.foreground[..., None], patch, case.source))


def training_copy(good: list[Case], real: list[Exemplar], k: int) -> Case:
    """A training defect put elsewhere, mirrored every other time, a little brighter, with noise."""
    large = [one for one in real if one.foreground.sum() >= LARGE]
    one, rng = large[k % len(large)], np.random.default_rng(k)
    source = next(case.source for case in good[k % 7 :] if case.category == one.category)
    x, y, width, height = cv2.boundingRect(one.foreground.astype(np.uint8))
    inside, pixels = one.foreground[y : y + height, x : x + width], one.image[y : y + height, x : x + width]
    if k % 2:
        inside, pixels = inside[:, ::-1], pixels[:, ::-1]
    left, top = int(rng.integers(SIZE[1] - width + 1)), int(rng.integers(SIZE[0] - height + 1))
    image, foreground = source.copy(), np.zeros(SIZE, bool)
    foreground[top : top + height, left : left + width] = inside
    copied = np.clip(np.rint(pixels + 5.0 + rng.normal(0, 1, pixels.shape)), 0, 255).astype(np.uint8)
    image[foreground] = copied[inside]
    return Case(source, image, foreground, one.category, one.defect, "fast")


def off_object(good: list[Case], k: int) -> Case:
    """A bright spot in the plain surroundings of a disc."""
    rng = np.random.default_rng(k)
    disc = cv2.circle(np.zeros(SIZE, np.uint8), (96, 96), 60, 1, -1)[..., None] > 0
    plain = rng.integers(18, 22, good[0].source.shape).astype(np.uint8)
    source = np.where(disc, np.maximum(good[k % 4].source, 100), plain)
    corner = (int(rng.integers(14, 26)), int(rng.integers(14, 178)))
    foreground = cv2.circle(np.zeros(SIZE, np.uint8), corner, int(rng.integers(5, 10)), 1, -1) > 0
    image = np.where(foreground[..., None], np.clip(source.astype(int) + 60, 0, 255), source).astype(np.uint8)
    return Case(source, image, foreground, "brushed_metal", good[0].defect, "fast")


def test_at_least_95_percent_of_200_bad_samples_are_refused_and_at_most_5_percent_of_good_ones(gate, good, real):
    kept = {}
    stored = Duplicates(lambda sample_id: (kept[sample_id].image, kept[sample_id].foreground), max_similarity=0.9)
    refused_good = []
    for number, case in enumerate(good):
        verdict = gate.judge(case, sample_id=number, stored=stored)
        if verdict.reasons:
            refused_good.append((case.defect, verdict))
        else:
            kept[number] = case
            stored.add(number, int(verdict.measures[FINGERPRINT], 16))
    twins = [case for case in kept.values() if case.foreground.sum() >= LARGE]
    bad = [("shifted mask", shifted_mask(good, k)) for k in range(34)]
    bad += [("no change", no_change(good, k)) for k in range(33)]
    bad += [("seam", seam(good, k)) for k in range(33)]
    bad += [("training copy", training_copy(good, real, k)) for k in range(33)]
    bad += [("duplicate", twins[k]) for k in range(33)]
    bad += [("off object", off_object(good, k)) for k in range(34)]
    assert len(bad) == 200
    passed = []
    for kind, case in bad:
        verdict = gate.judge(case, sample_id=1000, stored=stored)
        if not verdict.reasons:
            passed.append((kind, case.defect, verdict.measures))
    missed = {kind: sum(one == kind for one, *_ in passed) for kind in KINDS}
    print(f"{len(refused_good)} of {len(good)} good ones refused, {len(passed)} of 200 bad ones missed: {missed}")
    assert len(passed) <= 10, passed
    assert len(refused_good) <= 5, refused_good


@pytest.mark.parametrize("rule", REASONS)
def test_a_rule_that_is_off_refuses_nothing(rule, good, real):
    """And the same sample is refused, for that very reason, when it is on."""
    case = good[0]
    tiny = np.zeros(SIZE, bool)
    tiny[90:92, 90:92] = True
    broken = {
        "mask": replace(case, foreground=tiny),
        "object": off_object(good, 0),
        "visible": no_change(good, 1),
        "alignment": shifted_mask(good, 0),
        "seam": seam(good, 0),
        "copies": training_copy(good, real, 0),
        "duplicates": next(one for one in good if one.foreground.sum() >= LARGE),
        "features": all_red(good),
    }[rule]

    def reasons(switches: dict[str, bool]) -> tuple[str, ...]:
        config = GateConfig.model_validate({name: {"enabled": on} for name, on in switches.items()})
        gate = Gate(real, rules=config.rules())
        stored = gate.duplicates(lambda _: (broken.image, broken.foreground))  # the very same, as sample 0
        stored.add(0, int(fingerprint(broken.image, broken.foreground), 16))
        return gate.judge(broken, sample_id=1, stored=stored).reasons

    assert reasons({name: name == rule for name in REASONS}) == (REASONS[rule],)
    assert reasons(dict.fromkeys(REASONS, False)) == ()
    assert REASONS[rule] not in reasons({rule: False})


def test_the_rule_on_features_lets_good_samples_pass(good, real):
    gate = Gate(real, rules=GateConfig.model_validate({"features": {"enabled": True}}).rules())
    distances = [gate._feature_distance(case) for case in good[::10]]
    assert max(distances) <= GateConfig().features.max_distance


def all_red(good: list[Case]) -> Case:
    """No defect of a woven fabric looks like that."""
    red = np.zeros((*SIZE, 3), np.uint8)
    red[..., 0] = 255
    return replace(good[-1], image=red, foreground=np.ones(SIZE, bool))


def test_renderers_that_copy_by_design_are_exempt_from_the_rule_on_copies(gate, good, real):
    copied = training_copy(good, real, 0)
    seen = gate.judge(copied, sample_id=0, stored=nothing_stored())
    exempt = gate.judge(replace(copied, renderer="copy_paste"), sample_id=0, stored=nothing_stored())
    assert REASONS["copies"] in seen.reasons
    assert REASONS["copies"] not in exempt.reasons


def test_only_samples_with_lower_ids_make_a_duplicate(gate, good):
    case = next(one for one in good if one.foreground.sum() >= LARGE)
    stored = Duplicates(lambda _: (case.image, case.foreground), max_similarity=0.9)
    mark = gate.judge(case, sample_id=0, stored=stored).measures[FINGERPRINT]
    stored.add(5, int(mark, 16))
    assert REASONS["duplicates"] not in gate.judge(case, sample_id=5, stored=stored).reasons
    assert REASONS["duplicates"] in gate.judge(case, sample_id=6, stored=stored).reasons


def test_fingerprints_differ_by_the_angle_between_the_details():
    """SimHash: each bit differs with probability angle / π."""
    rng = np.random.default_rng(0)
    for correlation in (0.5, 0.8, 0.95):
        distances = []
        for _ in range(40):
            one, other = (v / np.linalg.norm(v) for v in rng.normal(size=(2, 32, 32)))
            other = other - np.vdot(one, other) * one
            mixed = correlation * one + np.sqrt(1 - correlation**2) * other / np.linalg.norm(other)
            distances.append((gate_measures.fingerprint(one) ^ gate_measures.fingerprint(mixed)).bit_count())
        wanted = gate_measures.BITS * np.arccos(correlation) / np.pi
        assert np.mean(distances) == pytest.approx(wanted, abs=4)
        assert np.mean(np.array(distances) <= max_bits(correlation)) >= 0.9
        assert correlation < 0.95 or max(distances) <= max_bits(0.9)


def test_a_fingerprint_is_its_bits_from_the_most_significant_on_summed_in_whole_numbers():
    """Stores hold it: neither the order of the bits nor the way of summing may change."""
    detail = np.random.default_rng(1).normal(size=(32, 32)).astype(np.float32)
    detail /= np.linalg.norm(detail)
    whole = [round(float(value) * 4096) for value in detail.ravel()]
    signs = (np.random.default_rng(0).integers(0, 2, (256, 1024)) * 2 - 1).tolist()
    bits = [sum(sign * value for sign, value in zip(row, whole, strict=True)) > 0 for row in signs]
    assert f"{gate_measures.fingerprint(detail):0256b}" == "".join("01"[bit] for bit in bits)


def test_of_five_thousand_stored_samples_only_alike_ones_are_read(good):
    case = next(one for one in good if one.foreground.sum() >= LARGE)
    rng, asked = np.random.default_rng(0), []

    def read(sample_id):
        asked.append(sample_id)
        return case.image, case.foreground

    stored = Duplicates(read, max_similarity=0.9)
    mark = int(fingerprint(case.image, case.foreground), 16)
    for number in range(5000):
        stored.add(number, mark if number in (17, 4000, 4999) else int.from_bytes(rng.bytes(32), "big"))
    assert stored.near(mark, before=4999) == [17, 4000]
    assert asked == []
    assert stored.closest(case.image, case.foreground, near=[17]) == pytest.approx(1, abs=1e-5)
    assert asked == [17]


def test_a_sample_that_breaks_another_rule_is_not_asked_whether_it_is_a_duplicate(gate, good):
    """So that shards, which cannot ask it, write the same lines."""
    broken = shifted_mask(good, 0)
    stored = Duplicates(lambda _: (broken.image, broken.foreground), max_similarity=0.9)
    stored.add(0, int(fingerprint(broken.image, broken.foreground), 16))
    alone = gate.judge(broken, sample_id=1, stored=None)
    assert alone.reasons
    assert gate.judge(broken, sample_id=1, stored=stored) == alone


def test_an_empty_mask_is_refused_even_when_its_rule_is_off(good):
    case = replace(good[0], foreground=np.zeros(SIZE, bool))
    verdict = Gate([], rules={}).judge(case, sample_id=0, stored=nothing_stored())
    assert verdict.reasons == (REASONS["mask"],)
    assert verdict.measures == {"area": 0.0}


def test_sixteen_bit_samples_are_judged_as_their_eight_bit_twins(gate, good, real):
    wide = [replace(one, image=one.image.astype(np.uint16) * 257) for one in real]
    case = good[0]
    twin = replace(case, source=case.source.astype(np.uint16) * 257, image=case.image.astype(np.uint16) * 257)
    found = [
        one.judge(each, sample_id=0, stored=nothing_stored()).reasons
        for one, each in ((gate, case), (Gate(wide, rules=GateConfig().rules()), twin))
    ]
    assert found[0] == found[1]


def test_an_unknown_rule_is_named():
    with pytest.raises(ValueError, match="no gate rule 'blur'"):
        Gate([], rules={"blur": {}})
