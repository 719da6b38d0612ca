"""The table of renderers: every row is a run of its own on the same split, judged against one real arm.

Cell by cell: a row's model, store, image metrics and segmenters are each kept when finished, so the same command
continues an interrupted table.
"""

import shutil
from pathlib import Path
from typing import Any

import numpy as np

from fastsynth.bench_config import BenchConfig
from fastsynth.data.manifest import MANIFEST
from fastsynth.environment import environment
from fastsynth.files import read_json, sha256_file, sha256_json, write_json
from fastsynth.images import read_image
from fastsynth.recipes.evaluating import MEASURED, QUALITY_FILE, evaluate
from fastsynth.recipes.judging import planned_arms, real_segmenter, train_arm
from fastsynth.recipes.rendering import generate, train_renderer
from fastsynth.recipes.trained import TRAINED
from fastsynth.run import TRAINED_FROM, Run
from fastsynth.run_config import RunConfig
from fastsynth.sheets import contact_sheet, defect_tile, save_sheet
from segment.compare import REAL, Arm, results

RESULT_FILE = "bench.json"


def bench(config: BenchConfig, runs: dict[str, RunConfig]) -> dict[str, Any]:
    """Fill what is missing of the table, write bench.json and sheet.png below `config.output`, return the content."""
    rows = {name: Run(settings) for name, settings in runs.items()}
    real: list[Arm] = []
    made: dict[str, list[Arm]] = {}
    quality, segmenter = {}, None
    for name, run in rows.items():
        _share(run, rows)
        train_renderer(run)
        generate(run)
        plans = planned_arms(run)
        if not real:
            real = [train_arm(run, plans[0], seed=seed) for seed in run.config.compare.seeds]
            segmenter = real_segmenter(run)
        current = _is_current(run)
        quality[name] = read_json(run.folder / QUALITY_FILE) if current else evaluate(run, segmenter=segmenter)
        made[name] = [train_arm(run, plan, seed=seed) for plan in plans[1:] for seed in run.config.compare.seeds]
    first = next(iter(rows.values()))
    surroundings = environment()
    about = {
        "command": surroundings["command"],
        "commit": surroundings["commit"],
        "machine": {key: surroundings[key] for key in ("processor", "cores", "memory_gb")},
        "data": {"sha256": sha256_json(first.split.sha256)},
    }
    judged = {
        name: results([*real, *arms], rng=np.random.default_rng(first.config.seed), **about)
        for name, arms in made.items()
    }
    found = {
        **about,
        "baseline": [row for row in next(iter(judged.values()))["rows"] if row["arm"] == REAL],
        "rows": [
            {
                "name": name,
                "scores": [row for row in result["rows"] if row["arm"] != REAL],
                "differences": result["differences"],
                "verdict": result["verdict"],
                "quality": quality[name],
                "renderer_minutes": _training_minutes(rows[name]),
            }
            for name, result in judged.items()
        ],
    }
    write_json(config.output / RESULT_FILE, found)
    draw_bench_sheet(rows, config.output / "sheet.png", columns=config.sheet_columns)
    return found


def draw_bench_sheet(rows: dict[str, Run], path: Path, *, columns: int, tile: int = 128) -> None:
    """Per defect type a line of real test defects, then one of every row: the same sample ids, so the same masks."""
    first = next(iter(rows.values()))
    lines, labels = [], []
    for defect in sorted({record.defect or "" for record in first.training_defects()}):
        seen = [record for record in first.records("test", normal=False) if record.defect == defect]
        picks = np.linspace(0, len(seen) - 1, min(columns, len(seen))).round().astype(int)
        lines.append([defect_tile(*first.read(seen[pick]), size=tile, outline=False) for pick in picks])
        labels.append(f"{defect}, real")
        for name, run in rows.items():
            found = sorted(run.store_folder.glob(f"*/train/{defect}/*.png"))[:columns]
            lines.append([defect_tile(*_pair(image), size=tile, outline=False) for image in found])
            labels.append(f"{defect}, {name}")
    save_sheet(path, contact_sheet(lines, row_labels=labels, tile=tile))


def _pair(image: Path) -> tuple[np.ndarray, np.ndarray]:
    mask = image.parents[2] / "ground_truth" / image.parent.name / f"{image.stem}_mask.png"
    return read_image(image), read_image(mask)[..., 0] > 0


def _share(run: Run, rows: dict[str, Run]) -> None:
    """Take over the split, and the finished model of another row that was trained with the same settings."""
    for other in rows.values():
        if other is run:
            return
        run.folder.mkdir(parents=True, exist_ok=True)
        if not run.split_path.is_file() and run.config.split == other.config.split:
            shutil.copyfile(other.split_path, run.split_path)
        trained = (other.model_folder / TRAINED).is_file()
        if (
            trained
            and not run.model_folder.exists()
            and run.training_settings() == read_json(other.model_folder / TRAINED_FROM)
        ):
            unfinished = run.folder / ".unfinished-model"
            shutil.rmtree(unfinished, ignore_errors=True)
            shutil.copytree(other.model_folder, unfinished)
            unfinished.rename(run.model_folder)


def _is_current(run: Run) -> bool:
    """Whether quality.json is of the samples that are in the store now."""
    quality = run.folder / QUALITY_FILE
    return quality.is_file() and read_json(quality).get(MEASURED) == sha256_file(run.store_folder / MANIFEST)


def _training_minutes(run: Run) -> float | None:
    trained = run.model_folder / TRAINED
    return read_json(trained)["minutes"] if trained.is_file() else None
