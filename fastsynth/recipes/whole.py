"""`run` and `demo`: all stages in order, each skipped when it is finished."""

import shutil
import warnings
from pathlib import Path
from typing import Any

from fastsynth.data.demo import make_demo
from fastsynth.recipes.evaluating import evaluate
from fastsynth.recipes.judging import compare
from fastsynth.recipes.layouts import draw_masks, require_sound_data
from fastsynth.recipes.rendering import draw_sheet, generate, require_sound_store, train_renderer
from fastsynth.report.html import write_report
from fastsynth.run import Run
from fastsynth.run_config import RunConfig


def run_all(run: Run) -> Path:
    """Check, draw layouts, train, generate, audit, compare, evaluate, report; returns the report's path.

    Raises CheckFailedError for data problems and for a store that fails its audit.
    """
    require_sound_data(run)
    draw_masks(run, count=24, path=run.folder / "sheets" / "layouts.png")
    train_renderer(run)
    generate(run)
    require_sound_store(run)
    draw_sheet(run)
    compare(run)
    try:
        evaluate(run)
    except ImportError as error:  # the trunk comes with an extra; the verdict does not need it
        warnings.warn(f"the look of the samples is not measured: {error}", stacklevel=2)
    return write_report(run.folder)


def make_demo_data(config: RunConfig) -> None:
    """The embedded data set at `data.root`, drawn once."""
    if not config.data.root.exists():
        draw_demo_data(config.data.root, seed=config.seed)


def draw_demo_data(root: Path, *, seed: int, **sizes: Any) -> None:
    """A new folder `root`, whole or not there. sizes: as `make_demo` takes them.

    Raises FileExistsError when there is something at `root`, ValueError as `make_demo`.
    """
    if root.exists():
        raise FileExistsError(f"{root} exists; choose a new folder")
    unfinished = root.with_name(f".tmp-{root.name}")
    shutil.rmtree(unfinished, ignore_errors=True)
    make_demo(unfinished, seed=seed, **sizes)
    unfinished.rename(root)
