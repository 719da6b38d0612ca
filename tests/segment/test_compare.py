"""The statistics behind the verdict, on test sets whose true effect is known by construction."""

import json
import time

import numpy as np
import pytest

from segment.compare import (
    METRICS,
    Arm,
    difference,
    differences,
    resample_images,
    results,
    rows,
    stretch,
    verdict,
)
from segment.metrics import BINS, ImageScore, Scores

PIXELS = 1_000_000  # foreground pixels of every image: rounding a recall to whole pixels changes nothing
TYPES = ("blowhole", "crack", "fray")


def image(name, defect, recall, *, group=None) -> ImageScore:
    """An image whose foreground is found to the share `recall` at any threshold, without false positives."""
    positives, negatives = np.zeros(BINS, np.int64), np.zeros(BINS, np.int64)
    negatives[0] = PIXELS
    if defect is not None:
        found = round(PIXELS * recall)
        positives[[-1, 0]] = found, PIXELS - found
    return ImageScore(name, defect, group or name, positives, negatives, positives / PIXELS)


def trial(rng, *, gains, seeds=3, per_type=12, image_sd=0.08, seed_sd=0.01, normals=2, groups_of=1):
    """Real and real+synthetic arms: recall = 0.5 + gain + image (partly shared by both arms) + seed + interaction.

    All images are equally large and none has a false positive, so mIoU = mean recall and the true difference of a
    type is its gain.
    """

    def groups():
        return np.repeat(rng.normal(0, 1, -(-per_type // groups_of)), groups_of)[:per_type]

    shared = {defect: 0.5 + image_sd * groups() for defect in gains}
    own = {defect: gains[defect] + image_sd / 2 * groups() for defect in gains}
    arms = []
    for name in ("real", "real+synthetic"):
        for seed in range(seeds):
            images = [image(f"normal {i}", None, 0) for i in range(normals)]
            level = rng.normal(0, seed_sd)
            for defect in gains:
                recall = shared[defect] + level + rng.normal(0, seed_sd / 2, per_type)
                recall = np.clip(recall + own[defect] if name != "real" else recall, 0, 1)
                images += [
                    image(f"{defect} {i}", defect, float(r), group=f"{defect} {i // groups_of}")
                    for i, r in enumerate(recall)
                ]
            synthetic = name != "real"
            arms.append(Arm(name, "fast" if synthetic else None, 1.0 if synthetic else None, seed, Scores(images), 0.5))
    return arms[:seeds], arms[seeds:]


def coverage(*, simulations=80, **kwargs) -> float:
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(simulations):
        real, mixed = trial(rng, gains={"crack": 0.05, "fray": 0.11}, per_type=12, **kwargs)
        overall = difference(mixed, real, "miou", rng=rng, resamples=250)[0]
        hits += overall["low"] <= 0.08 <= overall["high"]
    return hits / simulations


@pytest.mark.parametrize(
    "chance",
    [
        {"image_sd": 0.08, "seed_sd": 0.002},
        {"image_sd": 0.08, "seed_sd": 0.009},
        {"image_sd": 0.01, "seed_sd": 0.04},
        {"image_sd": 0.08, "seed_sd": 0.002, "groups_of": 3},
    ],
    ids=["test images dominate", "both matter", "training seeds dominate", "images come in groups"],
)
def test_the_interval_holds_the_true_effect_in_about_95_of_100_studies(chance):
    assert 0.91 <= coverage(**chance) <= 0.99


def test_ignoring_groups_would_make_the_interval_too_narrow():
    real, mixed = trial(np.random.default_rng(1), gains={"crack": 0.05}, per_type=60, groups_of=6, seeds=1)

    def width(arms):
        overall = difference(arms[1], arms[0], "miou", rng=np.random.default_rng(0), resamples=500)[0]
        return overall["high"] - overall["low"]

    def ungrouped(arm):
        images = [image(i.name, i.defect, i.positives[-1] / PIXELS) for i in arm.scores.images]
        return Arm(arm.arm, arm.renderer, arm.ratio, arm.seed, Scores(images), arm.threshold)

    assert width((real, mixed)) > 1.5 * width(([ungrouped(a) for a in real], [ungrouped(a) for a in mixed]))


def test_no_effect_is_called_so_in_about_95_of_100_studies():
    rng = np.random.default_rng(3)
    said = []
    for _ in range(40):
        real, mixed = trial(rng, gains=dict.fromkeys(TYPES, 0.0), normals=0)
        said.append(verdict(difference(mixed, real, "miou", rng=rng, resamples=250)))
    assert sum(sentence.startswith("No measurable gain") for sentence in said) >= 36


def test_the_same_arm_twice_differs_by_nothing_at_all():
    real, _ = trial(np.random.default_rng(0), gains=dict.fromkeys(TYPES, 0.0))
    for metric in METRICS:
        for entry in difference(real, real, metric, rng=np.random.default_rng(0), resamples=50):
            assert (entry["mean"], entry["low"], entry["high"]) == (0, 0, 0)


def test_difference_equals_a_loop_over_resamples_with_repeated_images():
    real, mixed = trial(np.random.default_rng(5), gains={"crack": 0.1, "fray": 0.0}, seeds=1, per_type=5)
    entries = difference(mixed, real, "miou", rng=np.random.default_rng(9), resamples=80)
    weights = resample_images(real[0].scores, 80, np.random.default_rng(9))
    slow = []
    for counts in weights:
        ious = []
        for arm in (mixed[0], real[0]):
            by_type = []
            for defect in ("crack", "fray"):
                chosen = [
                    i for i, n in zip(arm.scores.images, counts, strict=True) for _ in range(n) if i.defect == defect
                ]
                tp = sum(i.positives[-1] for i in chosen)
                by_type.append(tp / sum(i.positives.sum() for i in chosen))
            ious.append(np.mean(by_type))
        slow.append(ious[0] - ious[1])
    # five images per type: unbiased variance, and Student's t (both types vary alike, so ν is near 2 × 4)
    low, high = np.percentile(slow, [2.5, 97.5])
    mean = entries[0]["mean"]
    assert mean == pytest.approx(np.mean([entry["mean"] for entry in entries[1:]]))
    factors = [(entries[0]["low"] - mean) / (low - mean), (entries[0]["high"] - mean) / (high - mean)]
    assert factors[0] == pytest.approx(factors[1])
    assert np.sqrt(5 / 4) * 2.306 / 1.96 - 1e-3 <= factors[0] <= np.sqrt(5 / 4) * 2.776 / 1.96 + 1e-3  # ν in [4, 8]


def test_a_type_with_one_test_image_is_never_judged():
    real, mixed = trial(np.random.default_rng(0), gains={"crack": 0.3, "fray": 0.3}, per_type=1)
    for entry in difference(mixed, real, "miou", rng=np.random.default_rng(0), resamples=50):
        assert (entry["low"], entry["high"]) == (-1, 1)


def test_every_resample_keeps_the_number_of_images_of_every_type():
    real, _ = trial(np.random.default_rng(0), gains=dict.fromkeys(TYPES, 0.0), normals=4)
    scores = real[0].scores
    weights = resample_images(scores, 30, np.random.default_rng(0))
    for defect in (*TYPES, None):
        members = [i.defect == defect for i in scores.images]
        assert (weights[:, members].sum(axis=1) == sum(members)).all()


def test_stretch_is_students_t_where_few_seeds_dominate_and_vanishes_where_many_images_do():
    t_over_z = 4.302653 / 1.959964
    assert stretch(variances=[0, 1], degrees=[50, 2]) == pytest.approx(t_over_z, rel=1e-6)
    assert stretch(variances=[1, 1e-9], degrees=[10**6, 2]) == pytest.approx(1, abs=1e-5)
    assert stretch(variances=[1, 0], degrees=[10**6, 0]) == pytest.approx(1, abs=1e-5)
    assert stretch(variances=[0, 0], degrees=[0, 0]) == pytest.approx(1)


def test_the_sentence_names_size_interval_ratio_and_defect_types():
    rng = np.random.default_rng(0)
    real, mixed = trial(rng, gains={"blowhole": 0.12, "crack": 0.2, "fray": 0.0}, per_type=30, image_sd=0.03)
    sentence = verdict(difference(mixed, real, "miou", rng=rng))
    assert sentence.startswith("Synthetic data helps: +")
    assert "(95 % interval +" in sentence
    assert "; 3 seeds, 90 defect test images) with fast at ratio 1:1; most for crack (+" in sentence
    assert sentence.index("crack") < sentence.index("blowhole") < sentence.index("no measurable gain for fray")
    assert sentence.endswith("fray.")


def test_the_sentence_can_say_that_it_hurts():
    rng = np.random.default_rng(0)
    real, mixed = trial(rng, gains={"crack": -0.2, "fray": -0.1}, per_type=30, image_sd=0.03)
    sentence = verdict(difference(mixed, real, "miou", rng=rng))
    assert sentence.startswith("Synthetic data hurts: −")
    assert "a loss for crack (−" in sentence


def test_the_best_of_several_arms_is_said_to_be_chosen():
    rng = np.random.default_rng(0)
    real, mixed = trial(rng, gains={"crack": 0.1, "fray": 0.1}, image_sd=0.02)
    weaker = [Arm("real+synthetic", "paste", 2.0, a.seed, a.scores, 0.5) for a in real]
    alone = [Arm("synthetic", "fast", None, a.seed, a.scores, 0.5) for a in mixed]
    others = (weaker, mixed, alone)
    sentence = verdict([d for arm in others for d in difference(arm, real, "miou", rng=rng, resamples=200)])
    assert "with fast at ratio 1:1, the best of 2 arms" in sentence


@pytest.mark.parametrize(
    ("seeds", "warning"), [(1, "covers the choice of test images only"), (2, "2 seeds are too few"), (3, None)]
)
def test_fewer_than_three_seeds_are_pointed_out(seeds, warning):
    rng = np.random.default_rng(0)
    real, mixed = trial(rng, gains={"crack": 0.3}, seeds=seeds)
    sentence = verdict(differences([*real, *mixed], rng=rng, resamples=100))
    assert ("train at least 3" in sentence) == (warning is not None)
    assert (warning or "") in sentence


def test_results_hold_every_key_of_the_common_form_and_are_plain_json():
    rng = np.random.default_rng(0)
    real, mixed = trial(rng, gains=dict.fromkeys(TYPES, 0.1))
    found = results([*real, *mixed], command="compare", commit="0", machine={"cpus": 2}, data={}, rng=rng, resamples=50)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert {"command", "commit", "machine", "data", "rows", "differences", "verdict"} <= found.keys()
    row_keys = (
        "arm renderer ratio num_inference_steps seed samples miou miou_imagewise acc f1 ap pro false_alarm per_defect "
        "seconds_per_image train_minutes peak_memory_mb"
    )
    assert all(set(row_keys.split()) <= row.keys() for row in found["rows"])
    difference_keys = {"arm", "renderer", "ratio", "baseline", "metric", "mean", "low", "high", "defect"}
    assert all(difference_keys <= entry.keys() for entry in found["differences"])
    assert {entry["defect"] for entry in found["differences"]} == {None, *TYPES}
    assert found["rows"] == rows([*real, *mixed])


def test_without_normal_images_false_alarms_are_left_out():
    rng = np.random.default_rng(0)
    real, mixed = trial(rng, gains={"crack": 0.1}, normals=0)
    assert rows(real)[0]["false_alarm"] is None
    assert "false_alarm" not in {d["metric"] for d in differences([*real, *mixed], rng=rng, resamples=20)}


def test_what_cannot_be_compared_is_refused():
    rng = np.random.default_rng(0)
    real, mixed = trial(rng, gains={"crack": 0.1})
    other, _ = trial(rng, gains={"crack": 0.1}, per_type=5)
    with pytest.raises(ValueError, match="wanted one arm 'real'"):
        differences(real, rng=rng)
    with pytest.raises(ValueError, match=r"seeds \[0, 1\], real with \[0, 1, 2\]"):
        differences([*real, *mixed[:2]], rng=rng)
    with pytest.raises(ValueError, match="other test images"):
        difference(mixed, other, "miou", rng=rng)
    with pytest.raises(ValueError, match="at least one arm"):
        verdict([])


def test_2000_resamples_of_300_images_and_three_seeds_take_seconds():
    rng = np.random.default_rng(0)
    real, mixed = trial(rng, gains=dict.fromkeys(TYPES, 0.1), per_type=70, normals=90)
    started = time.process_time()
    difference(mixed, real, "miou", rng=rng)
    assert time.process_time() - started < 3
