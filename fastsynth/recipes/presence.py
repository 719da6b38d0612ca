"""Which samples show what their masks say: what a segmenter finds of them that was trained on real images alone.

Of a defect that it does not find at all there may be nothing to see. A segmenter that learns from such samples sees
defects where there are none.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fastsynth.data.manifest import dump_line, parse_json
from fastsynth.files import atomic_write, sha256_folder
from fastsynth.recipes.items import synthetic_items
from fastsynth.run import Run
from segment.models import load_segmenter
from segment.training import score_items

PRESENCE_FILE = "presence.jsonl"
ENTRY_KEYS = {"id", "image_sha256", "segmenter_sha256", "iou", "acc"}
MOST_LEFT_OUT = 0.5
"""Share of a type's samples: where a segmenter finds less than that of them, it may know too little itself."""


def presence(run: Run, lines: Sequence[Mapping[str, Any]], segmenter: Path | None) -> list[dict[str, float]]:
    """{iou, acc} of every sample: how well its mask is found. What was asked once is read from presence.jsonl.

    lines: of the manifest. segmenter: folder of a saved one, at whose own threshold it is asked; None: only what was
    asked before. Raises ValueError when that is not enough.
    """
    judge = None if segmenter is None else sha256_folder(segmenter, "*")
    known = _read(run, judge)
    missing = [line for line in lines if line["image_sha256"] not in known]
    if missing and segmenter is None:
        raise ValueError(
            f"compare.min_presence is {run.config.compare.min_presence}, but no segmenter of the real arm has been "
            "trained to look at the samples; train it first (fastsynth segment train --arm real), or set it to 0"
        )
    if missing and segmenter is not None:
        trained, settings = load_segmenter(segmenter), run.config.segment
        items = synthetic_items(run, missing)
        scores = score_items(trained.model, items, tile=settings.tile, overlap=settings.overlap)
        for line, score in zip(missing, scores.per_image(trained.threshold), strict=True):
            known[line["image_sha256"]] = {
                "id": line["id"],
                "image_sha256": line["image_sha256"],
                "segmenter_sha256": judge,
                **score,
            }
        ordered = sorted(known.values(), key=lambda entry: str(entry["id"]))
        atomic_write(run.folder / PRESENCE_FILE, b"".join(map(dump_line, ordered)))
    return [{key: known[line["image_sha256"]][key] for key in ("iou", "acc")} for line in lines]


def present_lines(
    lines: Sequence[dict[str, Any]], found: Sequence[Mapping[str, float]], *, least: float
) -> list[dict[str, Any]]:
    """The samples of which at least the share `least` is found, but of every type at least those that are found best.

    found: as `presence` returns it. At most MOST_LEFT_OUT of a type are left out.
    """
    kept = []
    for defect in sorted({line["defect"] for line in lines}):
        of_type = [(score["acc"], line) for line, score in zip(lines, found, strict=True) if line["defect"] == defect]
        limit = min(least, float(np.quantile([acc for acc, _ in of_type], MOST_LEFT_OUT, method="lower")))
        kept += [line for acc, line in of_type if acc >= limit]
    return kept


def _read(run: Run, judge: str | None) -> dict[str, dict[str, Any]]:
    """Hash of a sample's picture to its entry; of this segmenter alone, unless that is None. Others are asked again."""
    path = run.folder / PRESENCE_FILE
    entries = [parse_json(line) for line in path.read_bytes().splitlines()] if path.is_file() else []
    whole = [entry for entry in entries if isinstance(entry, dict) and entry.keys() >= ENTRY_KEYS]
    return {entry["image_sha256"]: entry for entry in whole if judge in (None, entry["segmenter_sha256"])}
