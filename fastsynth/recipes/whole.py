"""`run` and `demo`: all stages in order, each skipped when it is finished."""

from pathlib import Path

from fastsynth.data.demo import make_demo
from fastsynth.recipes.judging import compare
from fastsynth.recipes.rendering import audit_store, check_data, draw_masks, draw_sheet, generate, train_renderer
from fastsynth.report.html import write_report
from fastsynth.run import Run
from fastsynth.run_config import RunConfig


def run_all(run: Run) -> Path:
    """Check, draw layouts, train, generate, audit, compare, report; returns the report's path.

    Raises ValueError for data problems and for a store that fails its audit.
    """
    with run.stage("check"):
        problems = check_data(run)
    if problems:
        raise ValueError(
            f"{run.config.data.root}: {len(problems)} problems, first {problems[0].path}: {problems[0].message}; "
            "`fastsynth data check` lists all"
        )
    draw_masks(run, count=24, path=run.folder / "sheets" / "layouts.png")
    train_renderer(run)
    generate(run)
    with run.stage("audit"):
        report = audit_store(run)
    if report.problems:
        raise ValueError(f"{run.store_folder}: {len(report.problems)} problems, first: {report.problems[0]}")
    draw_sheet(run)
    compare(run)
    return write_report(run.folder)


def make_demo_data(config: RunConfig) -> None:
    """The embedded data set at `data.root`, drawn once."""
    if not config.data.root.exists():
        make_demo(config.data.root, seed=config.seed)
