"""The contact sheet of a table of renderers: the same masks, filled by every row."""

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fastsynth.data.export.folder import inside
from fastsynth.data.store import read_manifest
from fastsynth.images import read_image, read_mask
from fastsynth.run import Run
from fastsynth.sheets import PAPER, contact_sheet, defect_tile, save_sheet


def draw_bench_sheet(rows: Mapping[str, Run], path: Path, *, columns: int, tile: int = 128) -> None:
    """Per defect type a line of real test defects, then one of every row, all samples of a column of one mask.

    Where a gate refused a row's sample, that row went on to another layout: its cell stays empty.
    """
    stored = {name: list(read_manifest(run.store_folder)) for name, run in rows.items()}
    first = next(iter(rows.values()))
    lines, labels = [], []
    for defect in sorted({record.defect or "" for record in first.training_defects()}):
        seen = [record for record in first.records("test", normal=False) if record.defect == defect]
        picks = np.linspace(0, len(seen) - 1, min(columns, len(seen))).round().astype(int)
        lines.append([defect_tile(*first.read(seen[pick]), size=tile, outline=False) for pick in picks])
        labels.append(f"{defect}, real")
        masks = most_shared_masks(stored.values(), defect)[:columns]
        for name, run in rows.items():
            of_mask = {_mask_of(line): line for line in stored[name]}
            lines.append([_tile(run, of_mask.get(mask), size=tile) for mask in masks])
            labels.append(f"{defect}, {name}")
    save_sheet(path, contact_sheet(lines, row_labels=labels, tile=tile))


def most_shared_masks(stored: Iterable[Iterable[Mapping[str, Any]]], defect: str) -> list[tuple[str, str]]:
    """Id and hash of this type's masks, those that most rows have first. stored: manifest lines, row by row."""
    shared = Counter(_mask_of(line) for lines in stored for line in lines if line["defect"] == defect)
    return sorted(shared, key=lambda mask: (-shared[mask], mask))


def _mask_of(line: Mapping[str, Any]) -> tuple[str, str]:
    return line["id"], line["mask_sha256"]


def _tile(run: Run, line: Mapping[str, Any] | None, *, size: int) -> np.ndarray:
    """The defect of a stored sample, or an empty cell."""
    if line is None:
        return np.full((size, size, 3), PAPER, np.uint8)
    image = read_image(inside(run.store_folder, line["image"]))
    mask = read_mask(inside(run.store_folder, line["mask"]))
    return defect_tile(image, mask, size=size, outline=False)
