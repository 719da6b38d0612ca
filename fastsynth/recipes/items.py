"""What a segmenter learns from and is tested on: the photographs of a split, and the samples of a store."""

from collections.abc import Iterable, Mapping
from typing import Any

from fastsynth.data.export.folder import inside
from fastsynth.data.split import Part
from fastsynth.run import Run
from segment.data import TrainingItem


def real_items(run: Run, part: Part) -> list[TrainingItem]:
    """Defect and normal images of one part of the split."""
    records = [*run.records(part, normal=False), *run.records(part, normal=True)]
    return [
        TrainingItem(
            image_path=run.path(record.image),
            mask_path=None if record.mask is None else run.path(record.mask),
            defect=record.defect,
            group=run.dataset.group_of(record),
        )
        for record in records
    ]


def synthetic_items(run: Run, lines: Iterable[Mapping[str, Any]]) -> list[TrainingItem]:
    """Samples of the store, by their manifest lines; none of their images is a test image, by content."""
    chosen = list(lines)
    run.check_stored(chosen)
    return [
        TrainingItem(
            image_path=inside(run.store_folder, line["image"]),
            mask_path=inside(run.store_folder, line["mask"]),
            defect=line["defect"],
            synthetic=True,
            halo=line.get("halo", 0),
            source_path=run.path(line["source_image"]),
        )
        for line in chosen
    ]
