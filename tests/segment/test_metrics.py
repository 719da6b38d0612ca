"""Histogram scores against slow definitions that look at every pixel and every threshold."""

from itertools import pairwise
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from segment.metrics import BINS, EDGES, ImageScore, Metric, Scores, score_image

TYPES = ("crack", "hole")


def grid_map(rng: np.random.Generator, shape: tuple[int, int], *, levels: int = 12) -> np.ndarray:
    """Probabilities that are bin edges, a few levels only, so that there are many ties."""
    return EDGES[rng.choice(np.linspace(1, BINS - 1, levels).astype(int), shape)]


def random_test_set(seed: int, *, normals: int = 2):
    """[(probability, foreground, defect)]: two images per type and some normal ones, of various sizes."""
    rng = np.random.default_rng(seed)
    items = []
    for defect in [*TYPES, *TYPES, *[None] * normals]:
        shape = tuple(rng.integers(5, 14, 2))
        foreground = (rng.random(shape) < 0.25) & (defect is not None)
        if defect is not None:
            foreground[0, 0] = True
        items.append((grid_map(rng, shape), foreground, defect))
    return items


def scored(items) -> Scores:
    return Scores([score_image(p, f, name=f"{i}", defect=d) for i, (p, f, d) in enumerate(items)])


def pixels(items, defect, *, with_normals: bool):
    chosen = [(p, f) for p, f, d in items if d == defect or (with_normals and d is None)]
    return np.concatenate([p.ravel() for p, _ in chosen]), np.concatenate([f.ravel() for _, f in chosen])


def slow_average_precision(probability, foreground) -> float:
    total, recall_before = 0.0, 0.0
    for threshold in sorted(set(probability), reverse=True):
        predicted = probability >= threshold
        recall = (predicted & foreground).sum() / foreground.sum()
        total += (recall - recall_before) * (predicted & foreground).sum() / predicted.sum()
        recall_before = recall
    return total


def slow_region_overlap(items, defect, limit) -> float:
    chosen = [(p, f) for p, f, d in items if d == defect or d is None]
    background = np.concatenate([p[~f] for p, f in chosen])
    regions = []
    for probability, foreground in chosen:
        labels, count = ndimage.label(foreground, structure=np.ones((3, 3)))
        regions += [probability[labels == label] for label in range(1, count + 1)]
    curve = [(0.0, 0.0)]
    for threshold in sorted(set(np.concatenate([p.ravel() for p, _ in chosen])), reverse=True):
        covered = np.mean([(region >= threshold).mean() for region in regions])
        curve.append(((background >= threshold).mean(), covered))
    area = 0.0
    for (x0, y0), (x1, y1) in pairwise(curve):
        if x0 < limit and x1 > x0:
            end = min(x1, limit)
            area += (end - x0) * (y0 + (y1 - y0) * (end - x0) / (x1 - x0) / 2)
    return area / limit


@pytest.mark.parametrize("level", [200, 640, 900])
def test_an_image_by_itself_scores_as_its_thresholded_map(level):
    items, threshold = random_test_set(0), float(EDGES[level])
    for (probability, foreground, _), found in zip(items, scored(items).per_image(threshold), strict=True):
        predicted = probability >= threshold
        both, either = (predicted & foreground).sum(), (predicted | foreground).sum()
        assert found["iou"] == (both / either if either else 1)
        assert found["acc"] == (both / foreground.sum() if foreground.any() else 1)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("level", [200, 640, 900])
def test_counts_at_a_bin_edge_equal_the_thresholded_maps(seed, level):
    items, threshold = random_test_set(seed), float(EDGES[level])
    per_defect = scored(items).per_defect(threshold)
    for defect in TYPES:
        probability, foreground = pixels(items, defect, with_normals=False)
        predicted = probability >= threshold
        both, either = (predicted & foreground).sum(), (predicted | foreground).sum()
        assert per_defect[defect]["iou"] == pytest.approx(both / either)
        assert per_defect[defect]["acc"] == pytest.approx(both / foreground.sum())
        assert per_defect[defect]["f1"] == pytest.approx(2 * both / (predicted.sum() + foreground.sum()))
        assert per_defect[defect]["images"] == 2


def test_iou_f1_and_recall_equal_those_of_segmentation_models_pytorch():
    smp_metrics = pytest.importorskip("segmentation_models_pytorch.metrics")
    torch = pytest.importorskip("torch")
    items = random_test_set(7)
    probability, foreground = pixels(items, "crack", with_normals=False)
    stats = smp_metrics.get_stats(
        torch.from_numpy(probability)[None, None],
        torch.from_numpy(foreground.astype(int))[None, None],
        mode="binary",
        threshold=0.5,
    )
    ours = scored(items).per_defect(0.5)["crack"]
    assert ours["iou"] == pytest.approx(float(smp_metrics.iou_score(*stats, reduction="micro")))
    assert ours["f1"] == pytest.approx(float(smp_metrics.f1_score(*stats, reduction="micro")))
    assert ours["acc"] == pytest.approx(float(smp_metrics.recall(*stats, reduction="micro")))


def test_imagewise_iou_equals_that_of_segmentation_models_pytorch():
    smp_metrics = pytest.importorskip("segmentation_models_pytorch.metrics")
    torch = pytest.importorskip("torch")
    items = random_test_set(8)
    by_type = []
    for defect in TYPES:
        stats = [
            smp_metrics.get_stats(
                torch.from_numpy(probability)[None, None],
                torch.from_numpy(foreground.astype(int))[None, None],
                mode="binary",
                threshold=0.5,
            )
            for probability, foreground, of in items
            if of == defect
        ]
        together = [torch.cat(counts) for counts in zip(*stats, strict=True)]
        by_type.append(float(smp_metrics.iou_score(*together, reduction="micro-imagewise")))
    scores = scored(items)
    assert scores.miou_imagewise(0.5) == pytest.approx(np.mean(by_type))
    assert [scores.per_defect(0.5)[defect]["iou_imagewise"] for defect in TYPES] == pytest.approx(by_type)
    assert scores.miou_imagewise(0.5) != pytest.approx(scores.miou(0.5))


def test_one_image_full_of_false_pixels_costs_imagewise_iou_its_own_share_only():
    foreground = np.zeros((40, 40), bool)
    foreground[:2, :2] = True
    right = np.where(foreground, np.float32(0.9), np.float32(0.1))
    scores = scored([*[(right, foreground, "pit")] * 9, (np.full_like(right, 0.9), foreground, "pit")])
    assert scores.miou_imagewise(0.5) == pytest.approx((9 + 4 / 1600) / 10)
    assert scores.miou(0.5) == pytest.approx(40 / (40 + 1596))


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("normals", [0, 3])
def test_average_precision_equals_its_definition_over_every_threshold(seed, normals):
    items = random_test_set(seed, normals=normals)
    scores = scored(items)
    slow = [slow_average_precision(*pixels(items, defect, with_normals=True)) for defect in TYPES]
    assert [scores.per_defect(0.5)[defect]["ap"] for defect in TYPES] == pytest.approx(slow)
    assert scores.ap() == pytest.approx(np.mean(slow))


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("limit", [0.05, 0.3, 1.0])
def test_region_overlap_equals_its_definition_over_every_threshold(seed, limit):
    items = random_test_set(seed)
    slow = [slow_region_overlap(items, defect, limit) for defect in TYPES]
    assert scored(items).pro(limit) == pytest.approx(np.mean(slow))


def test_average_precision_of_a_continuous_map_loses_little_to_the_bins():
    rng = np.random.default_rng(0)
    foreground = np.zeros((80, 80), bool)
    foreground[20:40, 30:50] = True
    probability = 1 / (1 + np.exp(-rng.normal(np.where(foreground, -1, -5), 2))).astype(np.float32)
    scores = scored([(probability, foreground, "crack")])
    assert scores.ap() == pytest.approx(slow_average_precision(probability.ravel(), foreground.ravel()), abs=2e-3)


def test_every_edge_is_a_distinct_float32_and_half_is_one_of_them():
    assert (np.diff(EDGES) > 0).all()
    assert EDGES[0] == 0
    assert np.float32(0.5) in EDGES


@given(seed=st.integers(0, 10_000), level=st.integers(1, BINS - 1))
@settings(max_examples=60, deadline=None)
def test_scores_stay_between_zero_and_one_and_iou_below_recall(seed, level):
    scores, threshold = scored(random_test_set(seed)), float(EDGES[level])
    for row in scores.per_defect(threshold).values():
        assert all(0 <= row[key] <= 1 for key in ("iou", "acc", "f1", "ap", "pro"))
        assert row["iou"] <= row["acc"] + 1e-12
        assert row["iou"] <= row["f1"] + 1e-12
    assert 0 <= scores.false_alarm_pixels(threshold) <= scores.false_alarm(threshold) <= 1


def jackknifed(items, best: float, other: float) -> tuple[float, float]:
    """By how much mIoU at `best` is higher, and the standard error of that, leaving out one image after the other."""
    difference, variance = 0.0, 0.0
    for defect in TYPES:
        images = [(p, f) for p, f, d in items if d == defect]

        def iou(images, threshold: float) -> float:
            found = [((p >= threshold) & f, (p >= threshold) | f) for p, f in images]
            return sum(both.sum() for both, _ in found) / sum(either.sum() for _, either in found)

        without = [images[:i] + images[i + 1 :] for i in range(len(images))]
        left = np.array([iou(rest, best) - iou(rest, other) for rest in without])
        difference += (iou(images, best) - iou(images, other)) / len(TYPES)
        variance += (len(left) - 1) / len(left) * ((left - left.mean()) ** 2).sum() / len(TYPES) ** 2
    return difference, np.sqrt(variance)


@given(seed=st.integers(0, 10_000))
@settings(max_examples=20, deadline=None)
def test_no_edge_nearer_to_a_half_is_as_good_as_the_chosen_one(seed):
    """Against the jackknife itself, where it is clear."""
    items = [item for each in range(8) for item in random_test_set(8 * seed + each, normals=0)]
    scores = scored(items)
    edges = [float(edge) for edge in np.unique(np.concatenate([p.ravel() for p, _, _ in items]))] + [0.5]
    best = max(edges, key=scores.miou)
    chosen = scores.chosen_threshold()
    difference, error = jackknifed(items, best, chosen)
    assert difference <= 2.4 * error + 1e-9  # Student's t of 15 or more degrees of freedom: at most 2.13
    for edge in edges:
        if abs(np.log(edge / (1 - edge))) < abs(np.log(chosen / (1 - chosen))) - 1e-6:
            difference, error = jackknifed(items, best, edge)
            assert difference > 1.8 * error


def test_a_threshold_leaves_a_half_when_every_image_says_so_and_not_when_one_does():
    """Defects at 0.9 on ground of 0.6 in all of them, or in one of twenty."""
    foreground = np.zeros((9, 9), bool)
    foreground[2:6, 2:6] = True
    low, high = (EDGES[np.argmin(np.abs(EDGES - value))] for value in (0.1, 0.6))
    rng = np.random.default_rng(0)

    def items(raised: int):
        for number in range(20):
            ground = np.where(rng.random((9, 9)) < 0.5, low, high) if number < raised else np.full((9, 9), low)
            yield np.where(foreground, np.float32(0.9), ground).astype(np.float32), foreground, "crack"

    assert scored([*items(20)]).chosen_threshold() > 0.6
    assert scored([*items(1)]).chosen_threshold() == 0.5


def in_groups(items, copies: int) -> Scores:
    """Every image so many times, all of them one group."""
    return Scores(
        [
            score_image(p, f, name=f"{number}, {copy}", defect=defect, group=f"{number}")
            for number, (p, f, defect) in enumerate(items)
            for copy in range(copies)
        ]
    )


@given(seed=st.integers(0, 10_000))
@settings(max_examples=20, deadline=None)
def test_more_pictures_of_the_same_pieces_do_not_move_the_threshold(seed):
    items = random_test_set(seed, normals=0)
    assert in_groups(items, 5).chosen_threshold() == in_groups(items, 1).chosen_threshold()


def test_pictures_of_one_piece_have_no_say():
    """However many they are, and however sure."""
    foreground = np.zeros((9, 9), bool)
    foreground[2:6, 2:6] = True
    sure = np.where(foreground, np.float32(0.97), np.float32(0.8)).astype(np.float32)
    for groups, wanted in ((20, pytest.approx(0.8, abs=0.02)), (1, 0.5)):
        images = [score_image(sure, foreground, name=f"{n}", defect="crack", group=f"{n % groups}") for n in range(20)]
        assert Scores(images).chosen_threshold() == wanted


@given(seed=st.integers(0, 10_000), metric=st.sampled_from(get_args(Metric)))
@settings(max_examples=40, deadline=None)
def test_weighting_an_image_equals_repeating_it(seed, metric):
    items = random_test_set(seed)
    weights = np.random.default_rng(seed).integers(1, 4, (1, len(items)))
    repeated = [item for item, weight in zip(items, weights[0], strict=True) for _ in range(weight)]
    assert scored(items).values(metric, 0.5, weights) == pytest.approx(scored(repeated).values(metric, 0.5))


def test_a_perfect_map_scores_one_and_raises_no_alarm():
    items = [(np.where(f, 0.9, 0.1).astype(np.float32), f, d) for _, f, d in random_test_set(3)]
    scores = scored(items)
    assert scores.miou(0.5) == scores.acc(0.5) == scores.f1(0.5) == scores.ap() == 1
    assert scores.pro() == pytest.approx(1)
    assert scores.false_alarm(0.5) == scores.false_alarm_pixels(0.5) == 0


def test_the_threshold_of_a_separable_map_is_a_half():
    items = [(np.where(f, 0.9, 0.1).astype(np.float32), f, d) for _, f, d in random_test_set(3)]
    assert scored(items).chosen_threshold() == 0.5


def test_one_predicted_pixel_makes_a_false_alarm():
    items = random_test_set(0, normals=0)
    quiet, loud = np.full((4, 5), 0.1, np.float32), np.full((4, 5), 0.1, np.float32)
    loud[2, 3] = 0.5
    nothing = np.zeros((4, 5), bool)
    scores = scored([*items, (quiet, nothing, None), (loud, nothing, None)])
    assert scores.false_alarm(0.5) == 0.5
    assert scores.false_alarm_pixels(0.5) == 1 / 40


def test_false_alarms_are_not_measured_without_normal_images():
    scores = scored(random_test_set(0, normals=0))
    assert scores.false_alarm(0.5) is None
    assert scores.false_alarm_pixels(0.5) is None


@pytest.mark.parametrize(("value", "iou"), [(0.1, 1.0), (0.9, 0.0)])
def test_empty_rule_one_where_nothing_is_to_find_and_nothing_found_else_zero(value, iou):
    scores = scored([(np.full((4, 4), value, np.float32), np.zeros((4, 4), bool), "crack")])
    row = scores.per_defect(0.5)["crack"]
    assert (row["iou"], row["f1"]) == (iou, iou)
    assert (row["acc"], row["ap"], row["pro"]) == (1, 1, 1)


def test_saved_scores_come_back_equal_and_the_same_scores_give_the_same_bytes(tmp_path):
    items = random_test_set(5)
    scores = scored(items)
    scores.save(tmp_path / "a.npz")
    loaded = Scores.load(tmp_path / "a.npz")
    loaded.save(tmp_path / "b.npz")
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    assert loaded.per_defect(0.3) == scores.per_defect(0.3)
    assert [(i.name, i.defect, i.group) for i in loaded.images] == [(i.name, i.defect, i.group) for i in scores.images]
    assert all((a.region_shares == b.region_shares).all() for a, b in zip(loaded.images, scores.images, strict=True))


@pytest.mark.parametrize("content", [b"", b"not a zip", b"PK\x03\x04 cut"])
def test_a_damaged_file_is_named_in_one_line(tmp_path, content):
    (tmp_path / "scores.npz").write_bytes(content)
    with pytest.raises(ValueError, match=r"scores\.npz does not hold scores") as caught:
        Scores.load(tmp_path / "scores.npz")
    assert "\n" not in str(caught.value)


def test_wrong_input_is_refused_with_what_to_do():
    nothing, half = np.zeros((3, 3), bool), np.full((3, 3), 0.5, np.float32)
    with pytest.raises(ValueError, match="native size"):
        score_image(half[:2], nothing, name="a", defect="crack")
    with pytest.raises(ValueError, match="sigmoid"):
        score_image(half * np.nan, nothing, name="a", defect="crack")
    with pytest.raises(ValueError, match="name its defect type"):
        score_image(half, ~nothing, name="a", defect=None)
    image: ImageScore = score_image(half, nothing, name="a", defect=None)
    with pytest.raises(ValueError, match="add defect images"):
        Scores([image])
    with pytest.raises(ValueError, match="more than once"):
        Scores([image, image])
    with pytest.raises(ValueError, match="between 0 and 1"):
        scored(random_test_set(0)).miou(1.0)
