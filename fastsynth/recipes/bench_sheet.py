"""The contact sheet of a table of renderers: the same masks, filled by every row."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fastsynth.data.export.folder import inside
from fastsynth.data.store import read_manifest
from fastsynth.images import read_image, read_mask
from fastsynth.run import Run
from fastsynth.sheets import contact_sheet, defect_tile, save_sheet


def draw_bench_sheet(rows: Mapping[str, Run], path: Path, *, columns: int, tile: int = 128) -> None:
    """Per defect type a line of real test defects, then one of every row.

    Only samples that have the same mask in all rows: where a gate refused one, the rows went on to other layouts.
    """
    stored = {name: {line["id"]: line for line in read_manifest(run.store_folder)} for name, run in rows.items()}
    first = next(iter(rows.values()))
    lines, labels = [], []
    for defect in sorted({record.defect or "" for record in first.training_defects()}):
        seen = [record for record in first.records("test", normal=False) if record.defect == defect]
        picks = np.linspace(0, len(seen) - 1, min(columns, len(seen))).round().astype(int)
        lines.append([defect_tile(*first.read(seen[pick]), size=tile, outline=False) for pick in picks])
        labels.append(f"{defect}, real")
        ids = with_equal_masks(stored, defect)[:columns]
        for name, run in rows.items():
            pairs = [_pictures(run, stored[name][number]) for number in ids]
            lines.append([defect_tile(*pair, size=tile, outline=False) for pair in pairs])
            labels.append(f"{defect}, {name}")
    save_sheet(path, contact_sheet(lines, row_labels=labels, tile=tile))


def with_equal_masks(stored: Mapping[str, Mapping[str, dict[str, Any]]], defect: str) -> list[str]:
    """Ids of this type's samples with one and the same mask in all rows. stored: row → id → manifest line."""
    first, *others = stored.values()
    return [
        number
        for number, line in sorted(first.items())
        if line["defect"] == defect
        and all(number in other and other[number]["mask_sha256"] == line["mask_sha256"] for other in others)
    ]


def _pictures(run: Run, line: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    return read_image(inside(run.store_folder, line["image"])), read_mask(inside(run.store_folder, line["mask"]))
