"""The table of renderers: every row is a run of its own on the same split, judged against one real arm.

Cell by cell: the real arm's segmenters, and every row's model, store, image metrics and segmenters are each kept when
finished, so the same command continues an interrupted table. Rows draw equal layouts: those of the same id and attempt
have the same mask, whatever the renderer.
"""

import shutil
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from fastsynth.bench_config import REAL_ROW, Table
from fastsynth.data.manifest import MANIFEST
from fastsynth.files import read_json, sha256_file, write_json
from fastsynth.recipes.bench_sheet import draw_bench_sheet
from fastsynth.recipes.evaluating import MEASURED, QUALITY_FILE, evaluate
from fastsynth.recipes.filtering import all_drawn
from fastsynth.recipes.judging import (
    ArmPlan,
    about,
    is_outdated,
    is_scored,
    look_at_samples,
    planned_arms,
    real_segmenter,
    train_arms,
)
from fastsynth.recipes.rendering import generate, require_sound_store, train_renderer
from fastsynth.recipes.speed import GENERATION
from fastsynth.recipes.trained import TRAINED
from fastsynth.run import TRAINED_FROM, Run
from generators.config import CopyPasteConfig, CutPasteConfig, DRAEMConfig, NSAConfig
from segment.compare import REAL, results, verdict
from segment.tables import against_rows

RESULT_FILE = "bench.json"


class Cell(NamedTuple):
    """One step of one row, which is finished or not; outdated: with other settings or samples, so `bench` refuses."""

    row: str
    name: str
    finished: bool
    outdated: bool = False


def bench(table: Table, *, only: str | None = None) -> dict[str, Any] | None:
    """Fill what is missing, write bench.json and sheet.png of the finished rows, return the content; None without any.

    only: fill this row alone, and the real arm, by whose segmenter its samples are judged; "real" is the real arm
    alone. Raises ValueError when there is no such row, CheckFailedError for a store that fails its audit.
    """
    _require_row(table, only)
    real, rows = _open(table)
    train_arms(real, planned_arms(real)[:1])
    for name in rows if only is None else [only]:
        if name != REAL_ROW:
            _fill(rows[name], real, rows)
    finished = {name: run for name, run in rows.items() if all(cell.finished for cell in _row_cells(name, run))}
    if not finished:
        return None
    found = _judge(table, real, finished)
    write_json(table.config.output / RESULT_FILE, found)
    draw_bench_sheet(finished, table.config.output / "sheet.png", columns=table.config.sheet_columns)
    return found


def cells(table: Table, *, only: str | None = None) -> list[Cell]:
    """Every cell of the table, or of this row alone, the real arm's first; writes nothing. Raises as `bench`."""
    _require_row(table, only)
    real, rows = _open(table)
    plan = planned_arms(real)[0]
    found = [
        _segmenter_cell(REAL_ROW, f"segmenter, seed {seed}", real, plan, seed=seed, look=True)
        for seed in real.config.compare.seeds
        if only in (None, REAL_ROW)
    ]
    chosen = (name for name in rows if only in (None, name))
    return found + [cell for name in chosen for cell in _row_cells(name, rows[name], look=True)]


def _require_row(table: Table, only: str | None) -> None:
    if only not in (None, REAL_ROW, *table.rows):
        wanted = ", ".join(map(repr, table.rows))
        raise ValueError(f"no row {only!r} in the table; wanted {REAL_ROW!r} or one of {wanted}")


def _open(table: Table) -> tuple[Run, dict[str, Run]]:
    return Run(table.real), {name: Run(settings) for name, settings in table.rows.items()}


def _row_cells(name: str, run: Run, *, look: bool = False) -> list[Cell]:
    """look: read what segmenters would learn from now, too, and tell the outdated ones."""
    gate, count = run.config.generate.gate, run.config.generate.count
    drawn = all_drawn(run.store_folder, count=count, attempts=gate.attempts if gate.enabled else 1)
    measured = _is_measured(run)
    found = [Cell(name, "store", drawn), Cell(name, "image metrics", measured)]
    if trained := [one for one in _trainable(run) if hasattr(one.config.renderer, "training")]:
        found.insert(0, Cell(name, "model", all((one.model_folder / TRAINED).is_file() for one in trained)))
    return found + [
        # without the samples nothing can be said of what it learnt from
        _segmenter_cell(
            name, f"segmenter {plan.folder}, seed {seed}", run, plan, seed=seed, look=look and drawn and measured
        )
        for plan in planned_arms(run)[1:]
        for seed in run.config.compare.seeds
    ]


def _segmenter_cell(row: str, name: str, run: Run, plan: ArmPlan, *, seed: int, look: bool) -> Cell:
    scored = is_scored(run, plan, seed=seed)
    return Cell(row, name, scored, outdated=scored and look and is_outdated(run, plan, seed=seed))


def _fill(run: Run, real: Run, rows: Mapping[str, Run]) -> None:
    share_split(run, real)
    _share_model(run, rows)
    train_renderer(run)
    generate(run)
    require_sound_store(run)
    if not _is_measured(run):
        evaluate(run, segmenter=real_segmenter(real))
    look_at_samples(run, real_segmenter(real))
    train_arms(run, planned_arms(run)[1:])


def _judge(table: Table, real: Run, rows: Mapping[str, Run]) -> dict[str, Any]:
    """In the form of metrics.json, whose rows and differences say of which row they are, and `table`: name → its cost,
    image metrics and own verdict. `verdict` is on the best row; `references`: the rows that need no training."""
    made = {
        name: [replace(arm, row=name) for arm in train_arms(run, planned_arms(run)[1:])] for name, run in rows.items()
    }
    references = [
        name
        for name, run in rows.items()
        if isinstance(run.config.renderer, CopyPasteConfig | CutPasteConfig | DRAEMConfig | NSAConfig)
    ]
    synthetic = [arm for arms in made.values() for arm in arms]
    rng = np.random.default_rng(real.config.seed)
    found = results([*train_arms(real, planned_arms(real)[:1]), *synthetic], rng=rng, **about(real))
    to_real = {name: [d for d in found["differences"] if d["row"] == name] for name in rows}
    assert all(d["baseline"] == REAL for each in to_real.values() for d in each)
    found["differences"] += against_rows(
        synthetic, compare_with=table.config.compare_with, references=references, rng=rng
    )
    found["references"] = references
    found["table"] = {name: {**_cost(run), "verdict": verdict(to_real[name])} for name, run in rows.items()}
    return found


def _cost(run: Run) -> dict[str, Any]:
    """renderer_minutes: of its training. renderer_peak_memory_mb: of its training or of generating, the higher."""
    trained, generation = run.model_folder / TRAINED, run.folder / GENERATION
    model = read_json(trained) if trained.is_file() else {}
    drawing = read_json(generation) if generation.is_file() else {}
    peaks = [values["peak_memory_mb"] for values in (model, drawing) if "peak_memory_mb" in values]
    return {
        "renderer": run.config.renderer.kind,
        "renderer_minutes": model.get("minutes"),
        "renderer_peak_memory_mb": max(peaks, default=None),
        "seconds_per_image": drawing.get("seconds_per_image"),
        "samples": drawing.get("kept"),
        "drawings": drawing.get("made"),
        "quality": read_json(run.folder / QUALITY_FILE),
    }


def share_split(run: Run, real: Run) -> None:
    """Take over the real arm's split. Raises ValueError when the row has another one."""
    wanted = real.split  # made now, if it is not there yet
    if not run.split_path.is_file():
        run.folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(real.split_path, run.split_path)
    elif run.split.sha256 != wanted.sha256 or any(
        getattr(run.split, part) != getattr(wanted, part) for part in ("train", "val", "test")
    ):
        raise ValueError(f"{run.split_path} is not the split of {real.split_path}; delete {run.folder} and start again")


def _share_model(run: Run, rows: Mapping[str, Run]) -> None:
    """Take over finished models of other rows, or of parts of them, that were trained with the same settings."""
    trained = [one for row in rows.values() for one in _trainable(row) if (one.model_folder / TRAINED).is_file()]
    for one in _trainable(run):
        settings = one.training_settings()
        same = next((t for t in trained if read_json(t.model_folder / TRAINED_FROM) == settings), None)
        if same is not None and not one.model_folder.exists():
            unfinished = run.folder / ".unfinished-model"
            shutil.rmtree(unfinished, ignore_errors=True)
            shutil.copytree(same.model_folder, unfinished)
            one.model_folder.parent.mkdir(parents=True, exist_ok=True)
            unfinished.rename(one.model_folder)


def _trainable(run: Run) -> list[Run]:
    """The run, or its parts when it is a hybrid."""
    return list(run.parts.values()) or [run]


def _is_measured(run: Run) -> bool:
    """Whether quality.json is of the samples that are in the store now."""
    quality, manifest = run.folder / QUALITY_FILE, run.store_folder / MANIFEST
    if not quality.is_file() or not manifest.is_file():
        return False
    return bool(read_json(quality).get(MEASURED) == sha256_file(manifest))
