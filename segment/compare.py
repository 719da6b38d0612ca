"""The verdict: do segmenters trained with synthetic data beat those trained on the real data alone? No torch.

Every arm was trained with several seeds and scored on one frozen test set. The 95 % interval of a difference covers
both sources of chance:

- test images: resampled within each defect type, whole groups at a time, the same resample for both arms and all
  seeds, so that what makes an image hard cancels in the difference;
- training: the seeds of both arms are paired and resampled as pairs.

A plain bootstrap of few things (three seeds, five images of a type) gives intervals that miss the truth too often. So
both sources get their unbiased variance, and the interval is stretched from the normal quantile to Student's t,
see `stretch`.

R resamples, N test images, S seeds, T defect types. Scores are fractions of 1; a point is a hundredth.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

import numpy as np
from scipy import stats

from segment.metrics import EMPTY_RULE, FALSE_ALARM_RULE, IMAGEWISE_RULE, Metric, Scores, t_quantile

REAL, REAL_AND_SYNTHETIC = "real", "real+synthetic"
METRICS: tuple[Metric, ...] = ("miou", "miou_imagewise", "acc", "f1", "ap", "pro", "false_alarm")
ENOUGH_SEEDS = 3


@dataclass(frozen=True, eq=False)
class Arm:
    """One segmenter of an arm, scored on the frozen test set.

    arm: "real", "real+synthetic" or "synthetic".
    renderer: who made the synthetic images; None for the real arm.
    ratio: synthetic images per real image; None where it has no meaning.
    threshold: chosen on validation images, in (0, 1).
    num_inference_steps: calls of the denoiser per synthetic image.
    samples: synthetic images it learnt from.
    seconds_per_image: time per synthetic image that is kept, refused drawings included.
    train_minutes, peak_memory_mb (10⁶ bytes): of the segmenter.
    row: of a table of renderers, whose rows may be of one kind of renderer; else None.
    """

    arm: str
    renderer: str | None
    ratio: float | None
    seed: int
    scores: Scores
    threshold: float
    num_inference_steps: int | None = None
    samples: int | None = None
    seconds_per_image: float | None = None
    train_minutes: float | None = None
    peak_memory_mb: float | None = None
    row: str | None = None


class Difference(TypedDict):
    """Arm minus baseline, in fractions of 1, with its 95 % interval.

    row: of a table of renderers. baseline: "real", or the name of another row.
    defect: the type it is about, None for the mean over types.
    seeds: how many seeds of each arm. images: how many test images the metric is made of.
    """

    arm: str
    renderer: str | None
    ratio: float | None
    num_inference_steps: int | None
    row: str | None
    baseline: str
    metric: Metric
    defect: str | None
    mean: float
    low: float
    high: float
    seeds: int
    images: int


def results(
    arms: Sequence[Arm],
    *,
    command: str,
    commit: str,
    machine: dict[str, Any],
    data: dict[str, Any],
    rng: np.random.Generator,
    resamples: int = 2000,
) -> dict[str, Any]:
    """The content of metrics.json: rows, every difference to the real arm, the verdict, and the rules behind them.

    Raises ValueError when the arms cannot be compared: no real arm, other seeds, other test images.
    """
    found = differences(arms, rng=rng, resamples=resamples)
    return {
        "command": command,
        "commit": commit,
        "machine": machine,
        "data": data,
        "rows": rows(arms),
        "differences": found,
        "verdict": verdict(found),
        "rules": {"empty_mask": EMPTY_RULE, "imagewise": IMAGEWISE_RULE, "false_alarm": FALSE_ALARM_RULE},
    }


def rows(arms: Sequence[Arm]) -> list[dict[str, Any]]:
    """One row per segmenter, in the given order."""
    return [
        {
            "arm": arm.arm,
            "renderer": arm.renderer,
            "ratio": arm.ratio,
            "num_inference_steps": arm.num_inference_steps,
            "row": arm.row,
            "seed": arm.seed,
            "samples": arm.samples,
            "threshold": arm.threshold,
            "miou": arm.scores.miou(arm.threshold),
            "miou_imagewise": arm.scores.miou_imagewise(arm.threshold),
            "acc": arm.scores.acc(arm.threshold),
            "f1": arm.scores.f1(arm.threshold),
            "ap": arm.scores.ap(),
            "pro": arm.scores.pro(),
            "false_alarm": arm.scores.false_alarm(arm.threshold),
            "false_alarm_pixels": arm.scores.false_alarm_pixels(arm.threshold),
            "per_defect": arm.scores.per_defect(arm.threshold),
            "seconds_per_image": arm.seconds_per_image,
            "train_minutes": arm.train_minutes,
            "peak_memory_mb": arm.peak_memory_mb,
        }
        for arm in arms
    ]


def differences(arms: Sequence[Arm], *, rng: np.random.Generator, resamples: int = 2000) -> list[Difference]:
    """All arms against the real one, in all metrics; false alarms only where there are normal test images."""
    groups: dict[tuple[Any, ...], list[Arm]] = {}
    for arm in arms:
        groups.setdefault((arm.arm, arm.renderer, arm.ratio, arm.num_inference_steps, arm.row), []).append(arm)
    baselines = [group for (name, *_), group in groups.items() if name == REAL]
    others = [group for (name, *_), group in groups.items() if name != REAL]
    if len(baselines) != 1 or not others:
        names = ", ".join(sorted({arm.arm for arm in arms})) or "nothing"
        raise ValueError(f"got {names}; wanted one arm {REAL!r} and at least one other, train the missing one")
    seed = common_seed(rng)
    return [
        entry
        for group in others
        for metric in judged_metrics(arms)
        for entry in difference(group, baselines[0], metric, rng=np.random.default_rng(seed), resamples=resamples)
    ]


def common_seed(rng: np.random.Generator) -> int:
    """One for all pairs: the interval of a pair is the same whatever others are compared beside it."""
    return int(rng.integers(2**63))


def judged_metrics(arms: Sequence[Arm]) -> list[Metric]:
    """What these arms can be compared in."""
    return [metric for metric in METRICS if metric != "false_alarm" or arms[0].scores.normal.any()]


def difference(
    arm: Sequence[Arm],
    baseline: Sequence[Arm],
    metric: Metric,
    *,
    rng: np.random.Generator,
    resamples: int = 2000,
) -> list[Difference]:
    """`arm` minus `baseline`, each given as its S segmenters: the mean over types, for mIoU also every type.

    A type with one test image (or one group of them) is unknown: its interval is -1 to 1, and the interval of the
    mean over types leaves out how much that image could differ from others.

    Raises ValueError when their seeds or test images differ.
    """
    arm = sorted(arm, key=lambda one: one.seed)
    baseline = sorted(baseline, key=lambda one: one.seed)
    _check_pairs(arm, baseline)
    scores, seeds = arm[0].scores, len(arm)
    seed_weights = _resample(seeds, resamples, rng) / seeds  # (R, S)
    resampled = _by_seed(arm, baseline, metric, resample_images(scores, resamples, rng))  # (R, S, T)
    observed = _by_seed(arm, baseline, metric, None)[0]  # (S, T)
    over_images = resampled.mean(axis=1)
    over_seeds = np.einsum("rs,rst->rt", seed_weights, resampled) - over_images
    groups = np.array([_groups(scores, d) for d in (scores.defects if metric != "false_alarm" else [None])])
    by_image = _unbiased(over_images - observed.mean(axis=0), groups)
    chance = by_image + _unbiased(over_seeds, seeds)  # (R, T)

    def entry(defect: str | None, types: slice, images: int) -> Difference:
        by_seed = observed[:, types].mean(axis=1)
        deviations = chance[:, types].mean(axis=1)
        deviations *= stretch(
            variances=[*by_image[:, types].var(axis=0) / len(groups[types]) ** 2, _variance(by_seed) / seeds],
            degrees=[*(groups[types] - 1), seeds - 1],
        )
        low, high = np.clip(by_seed.mean() + np.percentile(deviations, [2.5, 97.5]), -1, 1)
        if groups[types].max() == 1:  # resampling one image says nothing about other images
            low, high = -1.0, 1.0
        return Difference(
            arm=arm[0].arm,
            renderer=arm[0].renderer,
            ratio=arm[0].ratio,
            num_inference_steps=arm[0].num_inference_steps,
            row=arm[0].row,
            baseline=baseline[0].row or baseline[0].arm,
            metric=metric,
            defect=defect,
            mean=float(by_seed.mean()),
            low=float(low),
            high=float(high),
            seeds=seeds,
            images=images,
        )

    entries = [entry(None, slice(None), _images_behind(scores, metric))]
    if metric in ("miou", "miou_imagewise"):
        for t, defect in enumerate(scores.defects):
            entries.append(entry(defect, slice(t, t + 1), sum(image.defect == defect for image in scores.images)))
    return entries


def resample_images(scores: Scores, resamples: int, rng: np.random.Generator) -> np.ndarray:
    """(R, N) int64: how often each test image is drawn. Within each defect type, and within the normal images,
    groups are drawn with replacement, as many as there are."""
    weights = np.zeros((resamples, len(scores.images)), np.int64)
    for defect in (*scores.defects, None):
        members = [n for n, image in enumerate(scores.images) if image.defect == defect]
        _, group_of = np.unique([scores.images[n].group for n in members], return_inverse=True)
        if members:
            weights[:, members] = _resample(_groups(scores, defect), resamples, rng)[:, group_of]
    return weights


def stretch(*, variances: Sequence[float], degrees: Sequence[int]) -> float:
    """Factor t_ν / z at the 97.5 % quantile: the price of having estimated a sum of variances from few things."""
    return float(t_quantile(np.array(variances, np.float64), degrees) / stats.norm.ppf(0.975))


def verdict(found: Sequence[Difference]) -> str:
    """One sentence on the real+synthetic arm with the largest mIoU gain (on any arm, if there is none such).

    It helps when the whole interval lies above zero, hurts when it lies below, else no gain is measurable.
    With several arms the sentence says that it is about the best of them: that choice flatters the number.
    """
    overall = [d for d in found if d["metric"] == "miou" and d["defect"] is None]
    overall = [d for d in overall if d["arm"] == REAL_AND_SYNTHETIC] or overall
    if not overall:
        raise ValueError("no mIoU difference to judge; compare at least one arm with the real one")
    best = max(overall, key=lambda d: d["mean"])
    match _direction(best):
        case 1:
            opening = "Synthetic data helps"
        case -1:
            opening = "Synthetic data hurts"
        case _:
            opening = "No measurable gain from synthetic data"
    chosen = f", the best of {len(overall)} arms" if len(overall) > 1 else ""
    counted = f"{_count(best['seeds'], 'seed')}, {_count(best['images'], 'defect test image')}"
    sentence = (
        f"{opening}: {_points(best['mean'])} mIoU points "
        f"(95 % interval {_points(best['low'])} to {_points(best['high'])}; {counted}){_conditions(best)}{chosen}"
    )
    return "; ".join([sentence, *_by_defect(found, best), *_seed_warning(best["seeds"])]) + "."


def _check_pairs(arm: Sequence[Arm], baseline: Sequence[Arm]) -> None:
    seeds, wanted = [one.seed for one in arm], [one.seed for one in baseline]
    if seeds != wanted or len(set(seeds)) < len(seeds):
        raise ValueError(
            f"{arm[0].arm} was trained with seeds {seeds}, {baseline[0].arm} with {wanted}; "
            "train both once with every seed"
        )
    frozen = [(image.name, image.defect) for image in baseline[0].scores.images]
    for one in (*arm, *baseline):
        tested = [(image.name, image.defect) for image in one.scores.images]
        if tested != frozen:
            raise ValueError(
                f"{one.arm} seed {one.seed} was scored on other test images than {baseline[0].arm} "
                f"({len(tested)} and {len(frozen)}); evaluate both on the same split, in the same order"
            )


def _by_seed(arm: Sequence[Arm], baseline: Sequence[Arm], metric: Metric, weights: np.ndarray | None) -> np.ndarray:
    """(R, S, T): arm minus baseline, seed by seed, each at its own threshold."""
    pairs = zip(arm, baseline, strict=True)
    return np.stack(
        [
            one.scores.values(metric, one.threshold, weights) - other.scores.values(metric, other.threshold, weights)
            for one, other in pairs
        ],
        axis=1,
    )


def _groups(scores: Scores, defect: str | None) -> int:
    return len({image.group for image in scores.images if image.defect == defect})


def _unbiased(deviations: np.ndarray, count: np.ndarray | int) -> np.ndarray:
    """Bootstrapped deviations scaled by √(n / (n - 1)): `count` things scatter too little around their own mean."""
    return deviations * np.sqrt(count / np.maximum(np.asarray(count) - 1, 1))


def _variance(values: np.ndarray) -> float:
    """Unbiased; 0 for a single value, which shows none."""
    return float(values.var(ddof=1)) if len(values) > 1 else 0.0


def _resample(count: int, resamples: int, rng: np.random.Generator) -> np.ndarray:
    """(R, count) int64: how often each of `count` things is drawn in `count` draws with replacement."""
    return rng.multinomial(count, np.full(count, 1 / count), size=resamples)


def _images_behind(scores: Scores, metric: Metric) -> int:
    match metric:
        case "miou" | "miou_imagewise" | "acc" | "f1":
            return int((~scores.normal).sum())
        case "ap" | "pro":
            return len(scores.images)
        case "false_alarm":
            return int(scores.normal.sum())


def _by_defect(found: Sequence[Difference], best: Difference) -> list[str]:
    """What the sentence says about single defect types: at most one clause per direction, largest effect first."""
    same = ("arm", "renderer", "ratio", "num_inference_steps", "row", "metric")
    types = [d for d in found if d["defect"] is not None and all(d[key] == best[key] for key in same)]  # type: ignore[literal-required]
    if len(types) < 2:
        return []
    gains = sorted((d for d in types if _direction(d) > 0), key=lambda d: -d["mean"])
    losses = sorted((d for d in types if _direction(d) < 0), key=lambda d: d["mean"])
    unclear = [str(d["defect"]) for d in types if _direction(d) == 0]
    clauses = []
    if gains:
        opening = "most for" if _direction(best) > 0 else "a gain only for"
        clauses.append(f"{opening} {_listed([_named(d) for d in gains])}")
    if losses:
        clauses.append(f"a loss for {_listed([_named(d) for d in losses])}")
    if unclear and (gains or losses):
        clauses.append(f"no measurable gain for {_listed(unclear)}")
    return clauses


def _seed_warning(seeds: int) -> list[str]:
    if seeds == 1:
        return [f"the interval covers the choice of test images only: train at least {ENOUGH_SEEDS} seeds"]
    if seeds < ENOUGH_SEEDS:
        return [f"{seeds} seeds are too few to tell training noise: train at least {ENOUGH_SEEDS}"]
    return []


def _direction(entry: Difference) -> int:
    """1 when the whole interval lies above zero, -1 below, else 0."""
    return int(entry["low"] > 0) - int(entry["high"] < 0)


def _conditions(entry: Difference) -> str:
    maker = entry["row"] or entry["renderer"]
    renderer = f" with {maker}" if maker else ""
    steps = f" in {entry['num_inference_steps']} steps" if entry["num_inference_steps"] and not entry["row"] else ""
    ratio = f" at ratio 1:{entry['ratio']:g}" if entry["ratio"] is not None else ""
    return renderer + steps + ratio


def _points(fraction: float) -> str:
    return f"{100 * fraction:+.1f}".replace("-", "−")


def _named(entry: Difference) -> str:
    return f"{entry['defect']} ({_points(entry['mean'])})"


def _listed(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" + ("" if number == 1 else "s")
