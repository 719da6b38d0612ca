"""The quality gate: which samples may enter the store, and why the others may not.

Every rule can be switched off; a sample that breaks several is refused for the first, in the order of `REASONS`, and
the others are recorded beside it. Whether it is a duplicate is asked last, and only of samples that break no other
rule. Verdicts depend on the sample, the training defects and, for duplicates, on the stored samples with lower ids,
so that order and interruptions of the work change nothing; shards leave that rule to the process that merges them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import cv2
import numpy as np

from fastsynth.images import to_uint8
from fastsynth.layouts.crop import ValueRange
from fastsynth.layouts.exemplar import Exemplar
from fastsynth.layouts.placement import object_region
from fastsynth.quality import gate_measures as measures
from fastsynth.quality.fingerprints import Fingerprints, max_bits

REASONS = {
    "mask": "mask empty or too small",
    "object": "off the object",
    "visible": "no visible defect",
    "alignment": "mask and picture disagree",
    "seam": "seam at the border",
    "copies": "near-copy of a training defect",
    "duplicates": "duplicate of another sample",
    "features": "implausible beside real defects",
}
"""Rule → the words in rejected.jsonl and in the report's funnel, in the order in which they are asked."""
MIN_PIXELS = 64
"""Smaller spots look alike by chance: they are no copies of one another."""
FINGERPRINT = "fingerprint"
"""Key of the measures: 256 bits of the defect's fine detail in hexadecimal, by which duplicates are looked up."""


@dataclass(frozen=True, eq=False)
class Case:
    """What is judged. source, image: (H, W, C) uint8 or uint16. foreground: (H, W) bool. renderer: its kind."""

    source: np.ndarray
    image: np.ndarray
    foreground: np.ndarray
    category: str
    defect: str
    renderer: str

    @cached_property
    def change(self) -> measures.Change:
        return measures.change(self.source, self.image, self.foreground)

    @cached_property
    def step(self) -> float:
        """At the mask's border."""
        return measures.border_step(self.image, self.foreground)

    @cached_property
    def ground_step(self) -> float:
        """There, before the defect was drawn."""
        return measures.border_step(self.source, self.foreground)

    @cached_property
    def details(self) -> list[np.ndarray]:
        """Fine detail of every connected part that is large enough to be recognised."""
        return part_details(self.image, self.foreground)


@dataclass(frozen=True)
class Verdict:
    """reasons: broken rules in words, empty for a sample that may stay. measures: what was measured, JSON values."""

    reasons: tuple[str, ...]
    measures: dict[str, float | str]


class Duplicates:
    """The stored samples, by fingerprint; no picture of an unrelated sample is read.

    read: id → image and foreground of a stored sample. max_similarity: of the rule that asks.
    """

    def __init__(self, read: Callable[[int], tuple[np.ndarray, np.ndarray]], *, max_similarity: float) -> None:
        self._read = read
        self._marks = Fingerprints(max_bits=max_bits(max_similarity))

    def add(self, sample_id: int, fingerprint: int) -> None:
        self._marks.add(sample_id, fingerprint)

    def near(self, fingerprint: int, *, before: int) -> list[int]:
        """Ids below `before` whose fingerprints are close, ascending."""
        return [int(number) for number in self._marks.near(fingerprint) if number < before]

    def closest(self, image: np.ndarray, foreground: np.ndarray, *, near: Sequence[int]) -> float:
        """Largest correlation of the fine detail with one of the `near` stored samples; 0 without any."""
        own = measures.detail(image, foreground)
        found = (measures.detail(*self._read(sample_id)) for sample_id in near)
        return max((float(np.vdot(own, other)) for other in found), default=0.0)


class Gate:
    """Judges samples. Raises ValueError for a rule that does not exist.

    real: the training defects, never test images. rules: name → thresholds, as `GateConfig.rules` gives them.
    """

    def __init__(self, real: Sequence[Exemplar], *, rules: Mapping[str, Mapping[str, Any]]) -> None:
        if unknown := sorted(rules.keys() - REASONS.keys()):
            raise ValueError(f"no gate rule {unknown[0]!r}; there are: {', '.join(REASONS)}")
        self.real, self.rules = list(real), rules

    def duplicates(self, read: Callable[[int], tuple[np.ndarray, np.ndarray]]) -> Duplicates:
        """Where stored samples are remembered. read: id → image and foreground of one."""
        return Duplicates(read, max_similarity=self.rules.get("duplicates", {}).get("max_similarity", 1.0))

    def judge(self, case: Case, *, sample_id: int, stored: Duplicates | None) -> Verdict:
        """sample_id: its id; duplicates are looked for among the `stored` samples with lower ones; None: not yet."""
        found: dict[str, float | str] = {"area": float(case.foreground.sum())}
        if not case.foreground.any():
            return Verdict((REASONS["mask"],), found)
        reasons = []
        for name, reason in REASONS.items():
            if name in self.rules and name != "duplicates":
                measured, kept = self._ask(name, case)
                found |= {key: round(value, 4) for key, value in measured.items()}
                reasons += [] if kept else [reason]
        found[FINGERPRINT] = fingerprint(case.image, case.foreground)
        verdict = Verdict(tuple(reasons), found)
        if reasons or stored is None:
            return verdict
        return self.judge_duplicate(
            verdict.measures, lambda: (case.image, case.foreground), sample_id=sample_id, stored=stored
        )

    def judge_duplicate(
        self,
        found: Mapping[str, float | str],
        read: Callable[[], tuple[np.ndarray, np.ndarray]],
        *,
        sample_id: int,
        stored: Duplicates,
    ) -> Verdict:
        """Complete the verdict on a sample that no other rule refuses.

        found: what was measured on it so far. read: its image and foreground, asked for only when they are needed.
        """
        if "duplicates" not in self.rules or float(found["area"]) < MIN_PIXELS:
            return Verdict((), dict(found))
        near = stored.near(int(str(found[FINGERPRINT]), 16), before=sample_id)
        alike = stored.closest(*read(), near=near) if near else 0.0
        kept = alike <= self.rules["duplicates"]["max_similarity"]
        return Verdict(() if kept else (REASONS["duplicates"],), {**found, "sample_similarity": round(alike, 4)})

    def _ask(self, name: str, case: Case) -> tuple[dict[str, float], bool]:
        """What one rule measures, and whether it lets the sample pass."""
        limits = self.rules[name]
        match name:
            case "mask":
                return {}, int(case.foreground.sum()) >= min(
                    limits["min_area"], self._smallest.get((case.category, case.defect), np.inf) / 2
                )
            case "object":
                inside = float(object_region(case.source)[case.foreground].mean())
                return {"on_object": inside}, inside >= limits["min_inside"]
            case "visible":
                return self._visibility(case, **limits)
            case "alignment":
                return self._alignment(case, **limits)
            case "seam" if case.foreground.sum() < MIN_PIXELS:
                return {}, True  # all of a speck is border
            case "seam":
                limit = max(limits["min_step"], limits["max_ratio"] * self._real_step(case))
                kept = case.step <= limit or case.step <= limits["ground_ratio"] * case.ground_step
                return {"border_step": case.step}, kept
            case "copies":
                if case.renderer in limits["exempt"]:
                    return {}, True
                alike = self._closest_real(case)
                return {"training_similarity": alike}, alike <= limits["max_similarity"]
            case _:
                distance = self._feature_distance(case)
                return {"feature_distance": distance}, distance <= limits["max_distance"]

    def _visibility(
        self,
        case: Case,
        *,
        min_contrast: float,
        min_share: float,
        sure_share: float,
        sure_contrast: float,
        min_edge: float,
        calm_step: float,
    ) -> tuple[dict[str, float], bool]:
        share = measures.visible_share(case.change, min_contrast=min_contrast)
        if share < min_share or share >= sure_share:
            return {"visible": share}, share >= min_share
        strong = measures.visible_share(case.change, min_contrast=sure_contrast)
        edge = case.step / max(case.ground_step, measures.FLOOR)
        kept = strong >= min_share or edge >= min_edge or case.ground_step > calm_step
        return {"visible": share, "edge": edge}, kept

    def _alignment(
        self, case: Case, *, min_contrast: float, max_outside: float, max_offset: float
    ) -> tuple[dict[str, float], bool]:
        outside = measures.outside_share(case.change, min_contrast=min_contrast)
        offset = measures.offset(case.change, min_contrast=min_contrast)
        return {"outside": outside, "offset": offset}, outside <= max_outside and offset <= max_offset

    @cached_property
    def _smallest(self) -> dict[tuple[str, str], int]:
        """Category and type → pixels of the smallest training defect."""
        smallest: dict[tuple[str, str], int] = {}
        for real in self.real:
            pair, area = (real.category, real.defect), int(real.foreground.sum())
            smallest[pair] = min(area, smallest.get(pair, area))
        return smallest

    def _real_step(self, case: Case) -> float:
        """Largest step at the border of a training defect of the type; of the category for a type without any."""
        of_type = self._steps.get((case.category, case.defect))
        of_category = [
            step for (category, _), steps in self._steps.items() if category == case.category for step in steps
        ]
        return max(of_type or of_category, default=0.0)

    @cached_property
    def _steps(self) -> dict[tuple[str, str], list[float]]:
        steps: dict[tuple[str, str], list[float]] = {}
        for real in self.real:
            step = measures.border_step(real.image, real.foreground, real.place.values)
            steps.setdefault((real.category, real.defect), []).append(step)
        return steps

    def _closest_real(self, case: Case) -> float:
        details = self._real_details.get(case.category)
        if details is None or not case.details:
            return 0.0
        return max(float(measures.similarity(own, details).max()) for own in case.details)

    @cached_property
    def _real_details(self) -> dict[str, np.ndarray]:
        """(8 · parts, 32, 32) per category: every part of every training defect, in all turns and mirrorings."""
        found: dict[str, list[np.ndarray]] = {}
        for real in self.real:
            for part in part_details(real.image, real.foreground, real.place.values):
                found.setdefault(real.category, []).append(measures.turned(part))
        return {category: np.concatenate(parts) for category, parts in found.items()}

    def _feature_distance(self, case: Case) -> float:
        """Distance to the nearest training defect of the type, in typical distances of the category; 0 without two."""
        found = self._real_features.get(case.category)
        if found is None:
            return 0.0
        of_type = [k for k, defect in enumerate(found.defects) if defect == case.defect]
        own = _features([case.image], [case.foreground])
        nearest = _distances(own, found.features[of_type or slice(None)]).min()
        return float(nearest / found.typical)

    @cached_property
    def _real_features(self) -> "dict[str, _RealFeatures]":
        return {
            category: _RealFeatures.of([real for real in self.real if real.category == category])
            for category in sorted({real.category for real in self.real})
            if sum(real.category == category for real in self.real) > 1
        }


@dataclass(frozen=True, eq=False)
class _RealFeatures:
    """features: (M, D) of the training defects of one category. typical: median distance to the nearest other one."""

    features: np.ndarray
    defects: list[str]
    typical: float

    @staticmethod
    def of(real: Sequence[Exemplar]) -> "_RealFeatures":
        images = [to_uint8(one.image, limits=(one.place.values.low, one.place.values.high)) for one in real]
        features = _features(images, [one.foreground for one in real])
        between = _distances(features, features)
        np.fill_diagonal(between, np.inf)
        return _RealFeatures(features, [one.defect for one in real], max(float(np.median(between.min(1))), 1e-6))


def fingerprint(image: np.ndarray, foreground: np.ndarray) -> str:
    """What the measures hold under `FINGERPRINT`."""
    return f"{measures.fingerprint(measures.detail(image, foreground)):0{measures.BITS // 4}x}"


def part_details(image: np.ndarray, foreground: np.ndarray, values: ValueRange | None = None) -> list[np.ndarray]:
    """(32, 32) each: the fine detail of every connected part of at least `MIN_PIXELS` pixels.

    values: as in `gate_measures.detail`.
    """
    x, y, width, height = cv2.boundingRect(foreground.view(np.uint8))
    box = np.s_[y : y + height, x : x + width]
    count, labels, stats, _ = cv2.connectedComponentsWithStats(foreground[box].astype(np.uint8), connectivity=8)
    details = []
    for number in range(1, count):
        if stats[number, cv2.CC_STAT_AREA] >= MIN_PIXELS:
            part = np.zeros_like(foreground)
            part[box] = labels == number
            details.append(measures.detail(image, part, values))
    return details


def _features(images: Sequence[np.ndarray], foregrounds: Sequence[np.ndarray]) -> np.ndarray:
    from fastsynth.quality.image_metrics import defect_crops, trunk_features  # torch, for this rule alone

    return trunk_features(defect_crops(images, foregrounds))


def _distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    distances: np.ndarray = np.linalg.norm(a[:, None] - b[None], axis=2)
    return distances
