"""From a store to a verdict: segmenters with and without synthetic data, scored on the frozen test part."""

from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from fastsynth.data.store import read_manifest
from fastsynth.environment import environment, reset_peak_memory, stage_peak_mb
from fastsynth.files import atomic_write, read_json, sha256_file, sha256_json, write_json
from fastsynth.images import IMAGE_SUFFIXES, encode_png, list_images, read_image
from fastsynth.parallel import main_first
from fastsynth.processes import process_count
from fastsynth.recipes.fast import device_of
from fastsynth.recipes.items import real_items, synthetic_items
from fastsynth.recipes.presence import presence, present_lines
from fastsynth.recipes.speed import GENERATION
from fastsynth.run import Run
from fastsynth.run_config import RunConfig, renderer_name
from fastsynth.side_by_side import Report, shares, work_side_by_side
from segment.compare import REAL, REAL_AND_SYNTHETIC, Arm, results
from segment.config import SegmentConfig
from segment.data import TrainingItem, full_range
from segment.metrics import Scores
from segment.models import load_segmenter
from segment.predict import predict
from segment.training import is_finished, score_items, train_segmenter

SYNTHETIC = "synthetic"
COST = "cost.json"
SCORES = "scores.npz"
SEGMENTER = "segmenter"
ARM_BYTES = 3_000_000_000
"""Memory that one segmenter's training is counted with when several are trained at a time."""


@dataclass(frozen=True)
class ArmPlan:
    """One way to train: `synthetic_ratio` is the probability that a defect crop is synthetic."""

    arm: str
    ratio: float | None
    synthetic_ratio: float

    @property
    def folder(self) -> str:
        """`real`, `real+synthetic-1`, `synthetic`."""
        return self.arm if self.ratio is None else f"{self.arm}-{self.ratio:g}"


class Lesson(NamedTuple):
    """What one segmenter learns from; samples: how many of the items are synthetic."""

    items: list[TrainingItem]
    val_items: list[TrainingItem]
    settings: SegmentConfig
    samples: int


def planned_arms(run: Run) -> list[ArmPlan]:
    """The arms of the verdict, the real one first."""
    settings = run.config.compare
    arms = [ArmPlan(REAL, None, 0.0)]
    arms += [ArmPlan(REAL_AND_SYNTHETIC, ratio, ratio / (1 + ratio)) for ratio in settings.ratios]
    return [*arms, ArmPlan(SYNTHETIC, None, 1.0)] if settings.synthetic_only else arms


def own_lines(lines: Iterable[dict[str, Any]], *, seed: int, seeds: Sequence[int]) -> list[dict[str, Any]]:
    """Those that are dealt to `seed`: sorted by type and id, the samples go to the seeds in turn.

    Raises ValueError for a seed that is not among them, or a type with fewer samples than seeds.
    """
    if seed not in seeds:
        raise ValueError(f"compare.own_samples deals samples to the seeds {list(seeds)}; seed {seed} is not among them")
    ordered = sorted(lines, key=lambda line: (line["defect"], line["id"]))
    for defect, count in Counter(line["defect"] for line in ordered).items():
        if count < len(seeds):
            raise ValueError(
                f"compare.own_samples: {count} samples of {defect} for {len(seeds)} seeds; "
                "generate at least one for each, or set it to false"
            )
    return ordered[seeds.index(seed) :: len(seeds)]


def train_arm(run: Run, plan: ArmPlan, *, seed: int, on_iteration: Report | None = None) -> Arm:
    """Train and score one segmenter, or return what is finished.

    The threshold is chosen on the validation part, with `segment.patience` the checkpoint, too; where the data are too
    few to have one, on the training part, never on test images.
    """
    folder = _folder(run, plan, seed=seed)
    if not (folder / SCORES).is_file():
        run.record("segment")
    lesson = _lesson(run, plan, seed=seed)
    settings = lesson.settings
    device = "cpu" if run.config.device == "cpu" else "auto"
    reset_peak_memory()
    trained = train_segmenter(
        lesson.items,
        lesson.val_items,
        config=settings,
        folder=folder,
        seed=seed,
        device=device,
        on_iteration=on_iteration,
    )
    if on_iteration is not None:
        on_iteration(settings.iterations)  # it may have ended early, or long ago
    with main_first(cpu=device == "cpu"):
        test, cost = real_items(run, "test"), read_json(folder / COST) if (folder / COST).is_file() else {}
        tested = _tested(test)
        # an annotation that was corrected since is judged anew
        if not (folder / SCORES).is_file() or cost.get("test_sha256") != tested:
            scores = score_items(trained.model, test, tile=settings.tile, overlap=settings.overlap)
            spent = {"train_minutes": trained.seconds / 60, "peak_memory_mb": stage_peak_mb(), **cost}
            scores.save(folder / SCORES)
            write_json(folder / COST, {**spent, "test_sha256": tested})
    return _read_arm(run, plan, folder, seed=seed, threshold=trained.threshold, samples=lesson.samples)


def train_arms(run: Run, plans: Sequence[ArmPlan]) -> list[Arm]:
    """The segmenters of these arms, every seed; the folder is taken only while one of them is missing."""
    cells = _cells(run, plans)
    finished = all(is_scored(run, plan, seed=seed) for plan, seed in cells)
    with nullcontext() if finished else run.stage("compare"):
        return _train_cells(run, cells)


def look_at_samples(run: Run, segmenter: Path | None) -> None:
    """What `segmenter` finds of the store's samples, for `compare.min_presence`, before arms are trained on them."""
    if run.config.compare.min_presence > 0:
        with main_first(cpu=device_of(run).type == "cpu"):
            presence(run, list(read_manifest(run.store_folder)), segmenter)


def _cells(run: Run, plans: Sequence[ArmPlan]) -> list[tuple[ArmPlan, int]]:
    return [(plan, seed) for plan in plans for seed in run.config.compare.seeds]


def _train_cells(run: Run, cells: Sequence[tuple[ArmPlan, int]]) -> list[Arm]:
    """Train what is missing, on a CPU several at a time: small crops keep one core busy, not many."""
    processes, threads = shares(len(cells), bytes_each=ARM_BYTES)
    missing = [(plan, seed) for plan, seed in cells if not is_scored(run, plan, seed=seed)]
    if missing and processes > 1 and process_count() == 1 and device_of(run).type == "cpu":
        work = [partial(_train_elsewhere, run.config, plan, seed) for plan, seed in missing]
        with tqdm(total=len(missing) * run.config.segment.iterations, desc="segmenters", unit="it") as bar:
            work_side_by_side(
                work, processes=processes, threads=threads, progress=lambda done: bar.update(done - bar.n)
            )
    return [train_arm(run, plan, seed=seed) for plan, seed in cells]


def _train_elsewhere(config: RunConfig, plan: ArmPlan, seed: int, report: Report) -> None:
    train_arm(Run(config), plan, seed=seed, on_iteration=report)


def is_scored(run: Run, plan: ArmPlan, *, seed: int) -> bool:
    """Whether this segmenter is trained and scored."""
    return (_folder(run, plan, seed=seed) / SCORES).is_file()


def is_outdated(run: Run, plan: ArmPlan, *, seed: int) -> bool:
    """Whether this segmenter, which is scored, learnt with other settings or from other samples than the run's now."""
    lesson = _lesson(run, plan, seed=seed)
    folder = _folder(run, plan, seed=seed)
    return not is_finished(folder, lesson.items, lesson.val_items, config=lesson.settings, seed=seed)


def compare(run: Run) -> dict[str, object]:
    """Train what is missing, write metrics.json, return its content; the verdict is under "verdict"."""
    with run.stage("compare"):
        real, *others = planned_arms(run)
        if others:
            _require_samples(run)
        arms = _train_cells(run, _cells(run, [real]))
        look_at_samples(run, real_segmenter(run))
        arms += _train_cells(run, _cells(run, others))
    found = results(arms, rng=np.random.default_rng(run.config.seed), **about(run))
    write_json(run.folder / "metrics.json", found)
    return found


def _require_samples(run: Run) -> None:
    """Before hours of training. Raises FileNotFoundError without a store, ValueError for too few samples."""
    lines, settings = list(read_manifest(run.store_folder)), run.config.compare
    if settings.own_samples:
        own_lines(lines, seed=settings.seeds[0], seeds=settings.seeds)


def about(run: Run) -> dict[str, Any]:
    """The head of metrics.json: command, commit, machine, data."""
    surroundings = environment()
    return {
        "command": surroundings["command"],
        "commit": surroundings["commit"],
        "machine": {key: surroundings[key] for key in ("processor", "cores", "memory_gb")},
        "data": {
            "sha256": sha256_json(run.split.sha256),
            **{f"{part}_images": len(getattr(run.split, part)) for part in ("train", "val", "test")},
        },
    }


def real_segmenter(run: Run) -> Path | None:
    """The first segmenter of the real arm, which has seen no synthetic image; None when it is not trained yet."""
    folder = _folder(run, planned_arms(run)[0], seed=run.config.compare.seeds[0])
    return folder / SEGMENTER if (folder / SCORES).is_file() else None


def evaluate_segmenter(run: Run, folder: Path) -> dict[str, dict[str, float]]:
    """Scores of a saved segmenter on the test part at its own threshold: the mean over types, then every type."""
    segmenter, settings = load_segmenter(folder), run.config.segment
    scores = score_items(segmenter.model, real_items(run, "test"), tile=settings.tile, overlap=settings.overlap)
    threshold = segmenter.threshold
    mean = {
        "iou": scores.miou(threshold),
        "acc": scores.acc(threshold),
        "f1": scores.f1(threshold),
        "ap": scores.ap(),
        "pro": scores.pro(),
    }
    return {"mean over types": mean, **scores.per_defect(threshold)}


def predict_masks(model: Path, images: Path, output: Path) -> int:
    """Write `<stem>_mask.png` of 0 and 255 for an image, or for every image of a folder; returns how many.

    Raises ValueError for a folder without images, and for one where two would write the same mask.
    """
    segmenter = load_segmenter(model)
    paths = [images] if images.is_file() else list(list_images(images))
    if not paths:
        raise ValueError(f"{images}: no image here; wanted a file or a folder of {', '.join(sorted(IMAGE_SUFFIXES))}")
    of_stem: dict[str, Path] = {}
    for path in paths:
        if (other := of_stem.setdefault(path.stem, path)) != path:
            raise ValueError(f"{path} and {other.name} would both write {path.stem}_mask.png; rename one of them")
    for path in tqdm(paths, desc="predict"):
        foreground = predict(segmenter.model, full_range(read_image(path))) >= segmenter.threshold
        atomic_write(output / f"{path.stem}_mask.png", encode_png(foreground.astype(np.uint8) * 255))
    return len(paths)


def _folder(run: Run, plan: ArmPlan, *, seed: int) -> Path:
    return run.folder / "segment" / plan.folder / f"seed-{seed}"


def _tested(items: Sequence[TrainingItem]) -> str:
    """Hash of what was judged on: images by name and size, masks by their content."""
    return sha256_json(
        [
            [item.image_path.name, item.image_path.stat().st_size, item.mask_path and sha256_file(item.mask_path)]
            for item in items
        ]
    )


def _lesson(run: Run, plan: ArmPlan, *, seed: int) -> Lesson:
    train, val = real_items(run, "train"), real_items(run, "val")
    if not any(item.defect for item in val):
        train = val = [*train, *val]
    lines = [] if plan.synthetic_ratio == 0 else _lines(run, seed=seed)
    settings = SegmentConfig.model_validate(
        {**run.config.segment.model_dump(), "synthetic_ratio": plan.synthetic_ratio}
    )
    return Lesson([*train, *synthetic_items(run, lines)], val, settings, samples=len(lines))


def _lines(run: Run, *, seed: int) -> list[dict[str, Any]]:
    """Of the manifest, what the segmenter of this seed learns from."""
    lines, settings = list(read_manifest(run.store_folder)), run.config.compare
    if settings.min_presence > 0:
        kept = present_lines(lines, presence(run, lines, real_segmenter(run)), least=settings.min_presence)
        ids = {line["id"] for line in kept}
        # a test image is refused in what is left out, too; what is kept is checked when it becomes items
        run.check_stored(line for line in lines if line["id"] not in ids)
        lines = kept
    return own_lines(lines, seed=seed, seeds=settings.seeds) if settings.own_samples else lines


def _read_arm(run: Run, plan: ArmPlan, folder: Path, *, seed: int, threshold: float, samples: int) -> Arm:
    cost = read_json(folder / COST)
    generation = run.folder / GENERATION
    rendered = plan.synthetic_ratio > 0
    return Arm(
        arm=plan.arm,
        renderer=renderer_name(run.config.renderer) if rendered else None,
        ratio=plan.ratio,
        seed=seed,
        scores=Scores.load(folder / SCORES),
        threshold=threshold,
        num_inference_steps=getattr(run.config.renderer, "num_inference_steps", 0) if rendered else None,
        samples=samples if rendered else None,
        seconds_per_image=read_json(generation)["seconds_per_image"] if rendered and generation.is_file() else None,
        train_minutes=cost["train_minutes"],
        peak_memory_mb=cost["peak_memory_mb"],
    )
