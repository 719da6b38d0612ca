"""Before any training: is the data set sound, and what will be drawn on it? Takes seconds, for it needs no torch."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from fastsynth.data.check import check_dataset
from fastsynth.errors import CheckFailedError
from fastsynth.images import read_image
from fastsynth.run import Run
from fastsynth.sheets import contact_sheet, defect_tile, save_sheet
from fastsynth.types import Layout


def require_sound_data(run: Run) -> None:
    """Decode every image and mask.

    Raises CheckFailedError that names the first problem a run would suffer from, and before it LeakError or ValueError
    for an image that is no longer the one of the split.
    """
    with run.stage("check", hash_data=False):  # they may be unsound
        split = run.split if run.split_path.is_file() else None  # a split that is made now needs the data to be sound
        if split is not None:
            for normal in (True, False):
                run.records("train", normal=normal)
                run.records("val", normal=normal)
        problems = [problem for problem in check_dataset(run.dataset, split) if not problem.harmless]
    if problems:
        root = run.config.data.root
        verb = f"fastsynth data check {root}" + ("" if split is None else f" --split {run.split_path}")
        raise CheckFailedError(
            f"{root}: {len(problems)} problems, first {problems[0].path}: {problems[0].message}; `{verb}` lists all"
        )


def draw_layouts(run: Run, ids: Sequence[int], *, attempt: int = 0) -> Iterator[Layout]:
    """The layouts of the given samples; each depends on the run's seed, its own id and the attempt alone."""
    samplers, normals = run.layout_samplers, run.training_normals
    pairs = run.defect_pairs
    for sample_id in ids:
        category, defect = pairs[sample_id % len(pairs)]
        rng = np.random.default_rng((run.config.seed, sample_id, *([attempt] if attempt else [])))
        backgrounds = [record for record in normals if record.category == category]
        background = backgrounds[rng.integers(len(backgrounds))]
        image = read_image(run.path(background.image))
        yield samplers[category].draw(image, background.image, category, defect, rng)


def draw_masks(run: Run, *, count: int, path: Path) -> Path:
    """A contact sheet of layouts, before any training: the normal images with the outlines of what would be drawn."""
    rows: dict[str, list[np.ndarray]] = {}
    for layout in draw_layouts(run, range(count)):
        tile = defect_tile(layout.background, layout.foreground, size=160, context=3.0, outline=True)
        rows.setdefault(f"{layout.category}, {layout.defect}", []).append(tile)
    save_sheet(path, contact_sheet(list(rows.values()), row_labels=list(rows), tile=160))
    return path
