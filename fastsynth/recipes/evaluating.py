"""Image metrics of a store: how real its defects look, how varied they are, whether they copy, whether they are there.

Real means the test part: the samples were made without it. Copies are looked for in the training part. Whether a
defect is there, a segmenter says that was trained on real images alone: `compare` trains one.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from fastsynth.data.datasets import Record
from fastsynth.data.export.folder import inside
from fastsynth.data.store import MANIFEST, read_manifest
from fastsynth.files import sha256_file, write_json
from fastsynth.images import read_image, read_mask
from fastsynth.layouts.crop import ValueRange
from fastsynth.quality.gate_measures import SEEN_SHARE, change
from fastsynth.quality.image_metrics import (
    DIVERSITY_NAME,
    INCEPTION_NAME,
    KID_NAME,
    NEAREST_NAME,
    Crops,
    class_probabilities,
    defect_crops,
    diversity,
    inception_score,
    kid,
    nearest_distance,
    perceptual_embedding,
    trunk_features,
)
from fastsynth.quality.truthfulness import truth
from fastsynth.recipes.judging import real_segmenter
from fastsynth.recipes.presence import presence
from fastsynth.run import Run
from fastsynth.types import COMBINED

QUALITY_FILE = "quality.json"
MEASURED = "manifest_sha256"
"""Key of quality.json: of which samples the figures are."""
FEWEST = 4
"""Defects below which a type's distances say nothing."""
SEEN_CHANGE = 2
"""Levels of 255 from which on a changed pixel can be seen."""
COPY_QUANTILE = 0.05
NAMES = {
    "kid": KID_NAME,
    "kid_training": "the same distance of the real training defects: what a store of perfect copies would get",
    "diversity": f"{DIVERSITY_NAME}: the mean between samples that are nearest to the same training defect",
    "inception_score": INCEPTION_NAME,
    "nearest": NEAREST_NAME,
    "copies": f"share of samples nearer to a training defect than {COPY_QUANTILE:.0%} of the real test defects",
    "visible": f"share of the mask's pixels that changed by at least {SEEN_CHANGE} of 255 levels",
    "alignment": "IoU of the mask with what changed beyond the texture's own variation",
    "leak": "mean change outside the mask per mean change inside it",
    "invisible": f"share of the defects of which less than {SEEN_SHARE:.0%} can be told from the texture",
    "presence_iou": "IoU of the mask with what a segmenter finds that was trained on real images alone",
    "presence_acc": "share of the mask that this segmenter finds",
}
"""Every figure of quality.json in words."""
Pair = tuple[np.ndarray, np.ndarray]
"""An image, and its foreground."""


def evaluate(run: Run, *, most: int = 200, segmenter: Path | None = None) -> dict[str, Any]:
    """Measure at most `most` samples of every type, write quality.json, return its content.

    Of a type with too few samples or real defects, what cannot be told is left out; so are distances for `combined`
    samples, to which no real type compares.
    segmenter: folder of one trained without the store, by default the run's own if `compare` has trained it; what it
    finds of every sample goes into presence.jsonl. Without one, presence is left out.
    """
    with run.stage("evaluate"):
        return _evaluate(run, most=most, segmenter=segmenter)


def _evaluate(run: Run, *, most: int, segmenter: Path | None) -> dict[str, Any]:
    stored = list(read_manifest(run.store_folder))
    segmenter = segmenter or real_segmenter(run)
    real: list[list[Record]] = [run.records(part, normal=False) for part in ("train", "test")]
    types = {}
    for defect in [*sorted({record.defect or "" for record in run.training_defects()}), COMBINED]:
        lines = [line for line in stored if line["defect"] == defect]
        if len(lines) < FEWEST:
            continue
        picks = np.linspace(0, len(lines) - 1, min(len(lines), most)).round().astype(int)
        chosen = [lines[pick] for pick in picks]
        run.check_stored(chosen)
        known, unseen = ([record for record in part if record.defect == defect] for part in real)
        types[defect] = _measure(run, chosen, known, unseen)
        if segmenter is not None:
            scores = presence(run, chosen, segmenter)
            types[defect] |= {f"presence_{key}": float(np.mean([s[key] for s in scores])) for key in scores[0]}
    measured = sha256_file(run.store_folder / MANIFEST)
    found = {"types": types, "mean": _mean(types), "names": NAMES, MEASURED: measured}
    write_json(run.folder / QUALITY_FILE, found)
    run.log({"stage": "evaluate", "quality": _mean(types)})
    return found


def _mean(types: dict[str, Any]) -> dict[str, float]:
    """Over the types, of every figure; of KID its mean."""
    columns: dict[str, list[float]] = {}
    for values in types.values():
        for name, value in values.items():
            if name != "samples":
                columns.setdefault(name, []).append(value["mean"] if name in ("kid", "kid_training") else value)
    return {name: float(np.mean(column)) for name, column in columns.items()}


def _measure(
    run: Run, lines: Sequence[dict[str, Any]], known_records: Sequence[Record], unseen_records: Sequence[Record]
) -> dict[str, Any]:
    visible, truths = [], []

    def made() -> Iterator[Pair]:
        """One picture at a time: those of a type may be large and many."""
        for line in lines:
            pair = _sample(run, line)
            visible.append(_visible(run, line, pair))
            truths.append(line.get("truth") or _measured_truth(run, line, pair))
            yield pair

    crops = {"made": _crops(made())}
    found: dict[str, Any] = {"samples": len(lines), "visible": float(np.mean(visible)), **_truth(truths)}
    if not known_records:
        return found
    for name, records in (("known", known_records), ("unseen", unseen_records)):
        if records:
            crops[name] = _crops(run.read_with_halo(record) for record in records)
    nearest = nearest_distance(crops["made"], crops["known"])
    found |= {
        "inception_score": inception_score(class_probabilities(crops["made"])),
        "nearest": float(np.median(nearest)),
    }
    if len(lines) > len(known_records):
        found["diversity"] = diversity(*(perceptual_embedding(crops[name]) for name in ("made", "known")))
    if len(unseen_records) >= FEWEST:
        features = {name: trunk_features(each) for name, each in crops.items()}
        for key, name in (("kid", "made"), ("kid_training", "known")):
            if len(features[name]) >= FEWEST:
                rng = np.random.default_rng(run.config.seed)
                found[key] = kid(features["unseen"], features[name], rng=rng)._asdict()
        usual = nearest_distance(crops["unseen"], crops["known"])
        found["copies"] = float((nearest < np.quantile(usual, COPY_QUANTILE)).mean())
    return found


def _crops(pairs: Iterable[Pair]) -> Crops:
    parts = [defect_crops([image], [foreground]) for image, foreground in pairs]
    return Crops(*(torch.cat(tensors) for tensors in zip(*parts, strict=True)))


def _sample(run: Run, line: dict[str, Any]) -> Pair:
    return read_image(inside(run.store_folder, line["image"])), read_mask(inside(run.store_folder, line["mask"]))


def _visible(run: Run, line: dict[str, Any], pair: Pair) -> float:
    image, foreground = pair
    source = read_image(run.path(line["source_image"]))
    values = ValueRange.of(source)
    step = (values.high - values.low) / 255
    change = cv2.absdiff(image, source).reshape(*foreground.shape, -1).max(axis=2)
    return float((change[foreground] >= SEEN_CHANGE * step).mean())


def _truth(found: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Means over the samples; of `invisible` over all instances."""
    instances = sum(len(each["visible"]) for each in found)
    return {
        **{key: float(np.mean([each[key] for each in found])) for key in ("alignment", "leak")},
        "invisible": sum(each["invisible"] for each in found) / instances,
    }


def _measured_truth(run: Run, line: dict[str, Any], pair: Pair) -> dict[str, Any]:
    image, foreground = pair
    source, ids = read_image(run.path(line["source_image"])), foreground.astype(np.uint16)
    if "instance_map" in line:
        ids = read_image(inside(run.store_folder, line["instance_map"]))[..., 0]
    return truth(change(source, image, foreground), source, image, ids)
