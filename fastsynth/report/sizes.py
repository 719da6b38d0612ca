"""How large the synthetic defects are beside the real ones they were drawn from: areas, their spread, and the gap.

Real: the parts of the training masks, as the sampler cuts them, with the halo that the masks of the samples have, too.
Synthetic: the instances of the manifest. In pixels, or in mm² when the data set's sidecar knows the spacing.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fastsynth.data.datasets import open_dataset
from fastsynth.data.medical.sidecar import read_places
from fastsynth.halo import grow
from fastsynth.images import read_mask
from fastsynth.layouts.parts import RealMask, RealPart, split_parts, without_crumbs


@dataclass(frozen=True, eq=False)
class SizeLine:
    """Areas of one defect type in `unit`; (n,) float64 each, n ≥ 1."""

    defect: str
    unit: str
    real: np.ndarray
    synthetic: np.ndarray

    @property
    def spreads(self) -> dict[str, tuple[float, ...]]:
        """Number, 10th, 50th and 90th percentile."""
        both = {"real": self.real, "synthetic": self.synthetic}
        return {name: (len(areas), *map(float, np.percentile(areas, (10, 50, 90)))) for name, areas in both.items()}

    @property
    def gap(self) -> float:
        """Largest distance between the two cumulative shares (Kolmogorov-Smirnov), 0 … 1."""
        return largest_gap(self.real, self.synthetic)


def largest_gap(first: np.ndarray, second: np.ndarray) -> float:
    """sup |F₁ - F₂| of two samples."""
    at = np.concatenate([first, second])
    shares = [np.searchsorted(np.sort(values), at, side="right") / len(values) for values in (first, second)]
    return float(np.abs(shares[0] - shares[1]).max())


def size_lines(
    root: Path,
    categories: Sequence[str] | None,
    train: Iterable[str],
    manifest: Iterable[Mapping[str, Any]],
    *,
    follow_links: bool = False,
) -> list[SizeLine]:
    """One line per defect type that has both real and synthetic ones, sorted by name.

    train: paths of the images that were learnt from. manifest: lines of the store.
    Raises ValueError or FileNotFoundError when the data set cannot be read any more.
    """
    dataset, learnt = open_dataset(root, categories=categories, follow_links=follow_links), set(train)
    records = [record for record in dataset.defects if record.image in learnt and record.mask]
    if not records:
        return []
    lines = list(manifest)
    area_of, unit = _pixel_areas(root, [*(r.image for r in records), *(str(line["source_image"]) for line in lines)])
    halo = max((int(line.get("halo", 0)) for line in lines), default=0)
    real: dict[str, list[float]] = {}
    for record in records:
        foreground = read_mask(root / str(record.mask))
        parts = split_parts(RealMask(str(record.mask), str(record.defect), foreground))
        found = [_pixels(part, halo) * area_of(record.image) for part in without_crumbs(parts)]
        real.setdefault(str(record.defect), []).extend(found)
    synthetic: dict[str, list[float]] = {}
    for line in lines:
        for instance in line["instances"]:
            area = instance["area"] * area_of(line["source_image"])
            synthetic.setdefault(instance["defect"], []).append(area)
    return [
        SizeLine(defect, unit, np.array(real[defect]), np.array(synthetic[defect]))
        for defect in sorted(real.keys() & synthetic.keys())
        if real[defect] and synthetic[defect]
    ]


def _pixels(part: RealPart, halo: int) -> float:
    """Of the part, grown by the halo as far as its picture reaches."""
    places = zip((part.top, part.left), part.foreground.shape, part.frame, strict=True)
    margins = [(min(halo, start), min(halo, size - start - side)) for start, side, size in places]
    return float(grow(np.pad(part.foreground, margins), halo).sum())


def _pixel_areas(root: Path, images: Sequence[str]) -> tuple[Callable[[str], float], str]:
    """Image → area of a pixel, and the unit: mm² only when it is known of all."""
    places = read_places(root)
    areas = {image: places[image].record.pixel_area if image in places else None for image in images}
    known = {image: area for image, area in areas.items() if area is not None}
    if not areas or len(known) < len(areas):
        return (lambda image: 1.0), "px"
    return known.__getitem__, "mm²"
