"""Verbs that measure: the look of a store, and the table of renderers."""

from pathlib import Path
from typing import Annotated

import typer

from fastsynth.cli_options import AsJson, ConfigPath, Overrides, open_run, print_result


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
    as_json: AsJson = False,
) -> None:
    """The table of renderers on one data set: image metrics, verdict and cost of every row; resumable cell by cell."""
    from fastsynth.bench_config import load_bench

    table, runs = load_bench(config, overrides)
    from fastsynth.recipes.benching import bench as fill

    found = fill(table, runs)
    lines = [f"{row['name']}: {row['verdict']}" for row in found["rows"]]
    print_result(found, "\n".join(lines), as_json)
