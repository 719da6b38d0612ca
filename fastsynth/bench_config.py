"""Configuration of `bench`: one run, and which renderer every row of the table puts into it. No torch."""

from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import Field

from fastsynth.config import Config, load_config, parse_config, read_yaml
from fastsynth.run_config import RunConfig

REAL_ROW = "real"
"""The real arm's folder, beside those of the rows."""
ROW_KEYS = ("renderer", "generate")
"""Sections that a row may change; with the others the rows would no longer be comparable."""


class BenchConfig(Config):
    """A table of renderers: the same data, layouts, segmenter and seeds for all."""

    run: Path
    """YAML file of the run, relative to this file."""
    output: Path
    """Folder of the table; the real arm and every row have a run folder below it."""
    rows: Annotated[dict[str, dict[str, Any]], Field(min_length=1)]
    """Name of a row → what it changes in the run's sections `renderer` and `generate`, e.g.
    `copy-paste: {renderer: {kind: copy_paste}}`. All rows generate equally many samples."""
    compare_with: tuple[str, ...] = ()
    """Rows that every other row is compared with, besides the real arm and the best reference renderer."""
    sheet_columns: Annotated[int, Field(ge=1)] = 8
    """Samples per row and defect type on the contact sheet, all rows with the same masks."""


class Table(NamedTuple):
    """real: the run of the real arm. rows: that of every row by its name."""

    config: BenchConfig
    real: RunConfig
    rows: dict[str, RunConfig]


def load_bench(path: Path, overrides: list[str]) -> Table:
    """The table's configuration and its runs.

    A row's section `renderer` with its own `kind` stands alone; everything else is merged into the run's.
    Raises FileNotFoundError or ValueError, naming the row and the key, for what cannot be read or is not a row's.
    """
    bench = load_config(BenchConfig, path, overrides)
    source = path.parent / bench.run
    load_config(RunConfig, source)  # a mistake there is the run's, not that of the first row
    common = read_yaml(source)
    common["compare"] = {**common.get("compare", {}), "synthetic_only": False}
    runs = {}
    for name, changes in bench.rows.items():
        _check_row(path, name, changes)
        values = _merged(common, changes)
        if "kind" in (changes.get("renderer") or {}):
            values["renderer"] = changes["renderer"]
        values["output"] = str(bench.output / name)
        runs[name] = parse_config(RunConfig, values, source=f"{path}: rows.{name}")
    _check_counts(path, runs)
    for name in bench.compare_with:
        if name not in runs:
            wanted = ", ".join(map(repr, runs))
            raise ValueError(f"{path}: compare_with names {name!r}, which is no row; wanted one of {wanted}")
    real = parse_config(RunConfig, {**common, "output": str(bench.output / REAL_ROW)}, source=str(source))
    return Table(bench, real, runs)


def _check_row(path: Path, name: str, changes: dict[str, Any]) -> None:
    if not name or "/" in name or name.startswith(".") or name == REAL_ROW:
        raise ValueError(
            f"{path}: a row is called {name!r}; its name is a folder's, so no slash, no leading dot, and {REAL_ROW!r} "
            "is the real arm's"
        )
    for key in changes:
        if key not in ROW_KEYS:
            raise ValueError(
                f"{path}: rows.{name} changes {key}; a row may change {' and '.join(ROW_KEYS)} only, "
                "set the rest in the run, for all rows"
            )


def _check_counts(path: Path, runs: dict[str, RunConfig]) -> None:
    """More samples are more variety: unequal numbers would be judged along with the renderers."""
    first, *others = runs
    wanted = runs[first].generate.count
    for name in others:
        if (count := runs[name].generate.count) != wanted:
            raise ValueError(
                f"{path}: rows.{name} has generate.count {count}, rows.{first} has {wanted}; "
                "set the same for all, best in the run"
            )


def _merged(values: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    merged = dict(values)
    for key, change in changes.items():
        old = merged.get(key)
        merged[key] = _merged(old, change) if isinstance(old, dict) and isinstance(change, dict) else change
    return merged
