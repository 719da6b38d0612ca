"""From the plain JSON of a run to what the report shows. Pure: no files, no HTML. Scores are fractions of 1."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Literal

from fastsynth.data.manifest import maker

Row = Mapping[str, Any]
"""One entry of `rows` in metrics.json: one arm with one seed."""
Tone = Literal["helps", "same", "hurts"]

METRICS = {
    "miou": "mIoU",
    "miou_imagewise": "mIoU, imagewise",
    "acc": "Acc",
    "f1": "F1",
    "ap": "AP",
    "pro": "PRO",
    "false_alarm": "False alarms",
}
"""Key in metrics.json and the name shown for it."""
LOWER_IS_BETTER = {"false_alarm"}
DEFINITIONS = {
    "mIoU": "ΣTP / Σ(TP + FP + FN) over the pixels of a defect type's test images, then averaged over the types.",
    "Acc": "The share of defect pixels that were found (foreground recall).",
    "AP": "Pixel average precision over all thresholds.",
    "PRO": "Per-region overlap up to 30 % false-positive rate.",
    "Thresholds and checkpoints": "0.5, unless validation images of the training third say otherwise; the last "
    "weights are kept, with segment.patience the best on those images. Nothing is chosen on test images.",
}
"""Shown below the scores, together with the `rules` of metrics.json."""
NOT_CURVES = {"step", "iteration", "seconds", "threshold"}
SYNTHETIC_ADDED = "real+synthetic"
TREE_FOLDERS = {"train", "test", "normal", "defects"}
"""First folder of an image's path when the data root is a category itself."""


@dataclass(frozen=True)
class Spread:
    """Mean over the seeds, with the lowest and the highest of them."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class ArmScores:
    """One line of a score table. best: the metrics in which no other arm of the table is better."""

    label: str
    seeds: int
    scores: dict[str, Spread]
    best: frozenset[str] = frozenset()


@dataclass(frozen=True)
class FunnelLine:
    """How many drawings of one renderer and defect the gate saw and kept, and why it refused the others."""

    renderer: str
    defect: str
    made: int
    kept: int
    reasons: dict[str, int]

    @property
    def rejected(self) -> int:
        return self.made - self.kept


@dataclass(frozen=True)
class Fact:
    """One figure at the top of the page."""

    name: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class DifferenceLine:
    """One line of the table of differences; mean, low, high are fractions of 1."""

    label: str
    baseline: str
    metric: str
    mean: float
    low: float
    high: float
    tone: Tone


@dataclass(frozen=True)
class SplitLine:
    """How many images of one kind (defect type, or normal) are in each part. val chooses thresholds and checkpoints."""

    kind: str
    train: int
    val: int
    test: int


@dataclass(frozen=True)
class ArmCost:
    """seconds_per_image: making one synthetic image. train_minutes: one segmenter. Means; the peak is the highest."""

    label: str
    seconds_per_image: float | None
    train_minutes: float | None
    peak_memory_mb: float | None


def arm_label(row: Row) -> str:
    """`real+synthetic · fast · ratio 1:2 · 10 steps`: what tells one arm from another."""
    parts = [str(row["arm"])]
    if row.get("renderer") and row["renderer"] not in parts[0]:
        parts.append(str(row["renderer"]))
    if row.get("ratio"):
        parts.append(f"ratio 1:{row['ratio']:g}")
    if row.get("num_inference_steps"):
        parts.append(f"{row['num_inference_steps']} steps")
    return " · ".join(parts)


def by_arm(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """The rows of each arm, one per seed, in the order in which the arms first appear."""
    arms: dict[str, list[Row]] = {}
    for row in rows:
        arms.setdefault(arm_label(row), []).append(row)
    return arms


def overall_scores(rows: Sequence[Row]) -> list[ArmScores]:
    """The means over all defect types, arm by arm."""
    return _score_table(by_arm(rows))


def scores_per_defect(rows: Sequence[Row]) -> dict[str, list[ArmScores]]:
    """A table for each defect type."""
    arms = by_arm(rows)
    return {
        defect: _score_table({label: [_one_defect(row, defect) for row in arm] for label, arm in arms.items()})
        for defect in sorted({defect for row in rows for defect in row["per_defect"]})
    }


def shown_metrics(rows: Sequence[Row]) -> dict[str, str]:
    """The metrics that were measured: key → name."""
    return {key: name for key, name in METRICS.items() if _values(rows, key)}


def verdict_tone(verdict: str) -> Tone:
    """Colour of the verdict: the first of its three answers that the sentence names; "same" when it names none."""
    answers: dict[str, Tone] = {"no measurable gain": "same", "helps": "helps", "hurts": "hurts"}
    text = verdict.lower()
    found = [(text.index(phrase), tone) for phrase, tone in answers.items() if phrase in text]
    return min(found)[1] if found else "same"


def difference_tone(difference: Row) -> Tone:
    """Whether the interval excludes zero, and on which side."""
    low, high = difference["low"], difference["high"]
    if difference["metric"] in LOWER_IS_BETTER:
        low, high = -high, -low
    return "helps" if low > 0 else "hurts" if high < 0 else "same"


def difference_label(row: Row) -> str:
    """The arm, and the defect type when the difference is of one type alone."""
    return f"{arm_label(row)}: {row['defect']}" if row.get("defect") else arm_label(row)


def difference_line(row: Row) -> DifferenceLine:
    return DifferenceLine(
        label=difference_label(row),
        baseline=row["baseline"],
        metric=METRICS[row["metric"]],
        mean=row["mean"],
        low=row["low"],
        high=row["high"],
        tone=difference_tone(row),
    )


def score_facts(rows: Sequence[Row], differences: Sequence[Row]) -> list[Fact]:
    """The largest difference in mIoU from adding synthetic images, with its interval, and the two scores behind it."""
    overall = [row for row in differences if row["metric"] == "miou" and not row.get("defect")]
    overall = [row for row in overall if row["arm"] == SYNTHETIC_ADDED] or overall
    if not overall:
        return []
    largest = max(overall, key=lambda row: row["mean"])
    means = {label: _mean(_values(arm, "miou")) for label, arm in by_arm(rows).items()}
    before, after = means.get(largest["baseline"]), means.get(arm_label(largest))
    interval = f"points; 95 %: {points(largest['low'])} to {points(largest['high'])}"
    facts = [Fact("Difference in mIoU", points(largest["mean"]), interval)]
    if before is not None and after is not None:
        note = f"{largest['baseline']} → {arm_label(largest)}"
        facts.append(Fact("mIoU", f"{percent(before)} → {percent(after)}", note))
    return facts


def funnel_facts(lines: Sequence[FunnelLine], *, asked: int | None) -> list[Fact]:
    """asked: samples the configuration wants."""
    if not lines:
        return []
    kept, made = sum(line.kept for line in lines), sum(line.made for line in lines)
    wanted = f"of {asked:,} asked for; " if asked is not None else ""
    return [Fact("Synthetic images", f"{kept:,}", f"{wanted}{made:,} made, {made - kept:,} rejected")]


def cost_facts(rows: Sequence[Row]) -> list[Fact]:
    facts = []
    if seconds := _values(rows, "seconds_per_image"):
        facts.append(Fact("Seconds per image", _range(min(seconds), max(seconds)), "by renderer"))
    if minutes := _values(rows, "train_minutes"):
        facts.append(Fact("Segmenter training", duration(sum(minutes)), f"{len(minutes)} segmenters"))
    if peaks := _values(rows, "peak_memory_mb"):
        facts.append(Fact("Peak memory", f"{max(peaks) / 1000:.1f} GB"))
    return facts


def duration(minutes: float) -> str:
    return f"{minutes / 60:.1f} h" if minutes >= 120 else f"{minutes:.1f} min"


def _range(low: float, high: float) -> str:
    shown = [f"{value:.2g}" if value < 100 else f"{value:.0f}" for value in dict.fromkeys((low, high))]
    return " – ".join(shown)


def percent(fraction: float) -> str:
    return f"{100 * fraction:.1f}"


def points(fraction: float) -> str:
    """Signed percentage points, with a true minus."""
    return f"{100 * fraction:+.1f}".replace("-", "−")


def funnel(manifest: Sequence[Row], rejected: Sequence[Row]) -> list[FunnelLine]:
    """One line per renderer (of a hybrid per part) and defect type, from the store's manifest and the rejects."""
    kept = Counter((maker(line), line["defect"]) for line in manifest)
    refused = Counter((maker(line), line["defect"]) for line in rejected)
    reasons: dict[tuple[str, str], Counter[str]] = {}
    for line in rejected:
        reasons.setdefault((maker(line), line["defect"]), Counter())[str(line["reason"])] += 1
    return [
        FunnelLine(
            *key, made=kept[key] + refused[key], kept=kept[key], reasons=dict(reasons.get(key, Counter()).most_common())
        )
        for key in sorted(kept.keys() | refused.keys())
    ]


def arm_costs(rows: Sequence[Row]) -> list[ArmCost]:
    return [
        ArmCost(
            label,
            seconds_per_image=_mean(_values(arm, "seconds_per_image")),
            train_minutes=_mean(_values(arm, "train_minutes")),
            peak_memory_mb=max(_values(arm, "peak_memory_mb"), default=None),
        )
        for label, arm in by_arm(rows).items()
    ]


def training_line(trained: Row) -> str | None:
    """How the renderer's model came about, from its training.json; None without one."""
    if not trained:
        return None
    return f"{trained['steps']:,} steps in {trained['minutes']:.1f} min"


def stage_minutes(log: Iterable[Row]) -> dict[str, float]:
    """Minutes of each stage, from the lines {stage, seconds} that close it; resumed stages add up."""
    minutes: dict[str, float] = {}
    for record in log:
        if "stage" in record and "seconds" in record and "step" not in record:
            minutes[record["stage"]] = minutes.get(record["stage"], 0.0) + record["seconds"] / 60
    return minutes


def curves(records: Iterable[Row], *, along: str) -> dict[str, list[tuple[float, float]]]:
    """Every number that was logged along the key `along`: name → [(position, value), …] in the order of the log."""
    found: dict[str, list[tuple[float, float]]] = {}
    for record in records:
        if along not in record:
            continue
        for name, value in record.items():
            if name not in NOT_CURVES and isinstance(value, int | float) and not isinstance(value, bool):
                found.setdefault(name, []).append((float(record[along]), float(value)))
    return {name: positions for name, positions in found.items() if len(positions) > 1}


def split_counts(split: Mapping[str, Any]) -> list[SplitLine]:
    """Images per kind and part, from the paths in split.json."""
    parts = ("train", "val", "test")
    counts = Counter((_kind(image), part) for part in parts for image in split.get(part, []))
    kinds = sorted({kind for kind, _ in counts})
    return [SplitLine(kind, *(counts[kind, part] for part in parts)) for kind in kinds]


def _kind(image: str) -> str:
    """`bottle, crack` for bottle/test/crack/003.png, `crack` for test/crack/003.png."""
    folders = PurePosixPath(image).parent.parts
    return folders[-1] if folders[0] in TREE_FOLDERS else f"{folders[0]}, {folders[-1]}"


def _score_table(arms: Mapping[str, Sequence[Row]]) -> list[ArmScores]:
    spreads = {label: _spreads(rows) for label, rows in arms.items()}
    best = {key: _best(key, [scores[key].mean for scores in spreads.values() if key in scores]) for key in METRICS}
    return [
        ArmScores(
            label,
            seeds=len(arms[label]),
            scores=scores,
            best=frozenset(key for key, spread in scores.items() if spread.mean == best[key]),
        )
        for label, scores in spreads.items()
    ]


def _best(key: str, means: Sequence[float]) -> float | None:
    """The best of at least two; a single arm has nothing to be better than."""
    if len(means) < 2:
        return None
    return min(means) if key in LOWER_IS_BETTER else max(means)


def _one_defect(row: Row, defect: str) -> dict[str, Any]:
    """The scores of one type, whose IoU stands in the column of the mean over types."""
    scores = row["per_defect"].get(defect, {})
    return {f"m{key}" if key.startswith("iou") else key: value for key, value in scores.items()}


def _spreads(rows: Sequence[Row]) -> dict[str, Spread]:
    spreads = {}
    for key in METRICS:
        values = _values(rows, key)
        if values:
            spreads[key] = Spread(sum(values) / len(values), min(values), max(values))
    return spreads


def _values(rows: Iterable[Row], key: str) -> list[float]:
    return [float(row[key]) for row in rows if row.get(key) is not None]


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
