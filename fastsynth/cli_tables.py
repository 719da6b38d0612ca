"""Verbs that measure: the look of a store, and the table of renderers."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fastsynth.cli_options import AsJson, ConfigPath, Overrides, open_run, print_result

if TYPE_CHECKING:
    from fastsynth.recipes.benching import Cell


def evaluate(
    config: ConfigPath,
    overrides: Overrides = [],  # noqa: B006
    as_json: AsJson = False,
) -> None:
    """Image metrics of the store: distance to real test defects, variety, copies, visible change; quality.json."""
    opened = open_run(config, overrides, None, None)
    from fastsynth.recipes.evaluating import evaluate as measure

    found = measure(opened)
    lines = [f"{name}: {value:.3f} ({found['names'][name]})" for name, value in found["mean"].items()]
    print_result(found, "\n".join(lines) or "no type has enough samples", as_json)


def bench(
    config: Annotated[Path, typer.Argument(help="YAML of the table; see configs/bench_magnetic_tile.yaml.")],
    overrides: Overrides = [],  # noqa: B006
    row: Annotated[
        str | None, typer.Option(help="Only this row's cells, and the real arm if it is missing; real: that alone.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say which cells there are, finished or not.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """The table of renderers on one data set: image metrics, verdict and cost of every row; resumable cell by cell."""
    from fastsynth.bench_config import load_bench

    table = load_bench(config, overrides)
    from fastsynth.recipes.benching import bench as fill
    from fastsynth.recipes.benching import cells

    if dry_run:
        planned = cells(table, only=row)
        text = (f"{cell.row}: {cell.name}: {_state(cell)}" for cell in planned)
        print_result([cell._asdict() for cell in planned], "\n".join(text), as_json)
        return
    found = fill(table, only=row)
    lines = (
        [f"{name}: {made['verdict']}" for name, made in found["table"].items()] if found else ["no finished row yet"]
    )
    print_result(found, "\n".join(lines), as_json)


def _state(cell: "Cell") -> str:
    if cell.outdated:
        return "finished with other settings or samples; set them back, or delete it"
    return "finished" if cell.finished else "missing"
