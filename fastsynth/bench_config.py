"""Configuration of `bench`: one run, and what every row of the table changes in it. No torch."""

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from fastsynth.config import Config, load_config, parse_config, read_yaml
from fastsynth.run_config import RunConfig


class BenchConfig(Config):
    """A table of renderers: the same data, layouts, segmenter and seeds for all."""

    run: Path
    """YAML file of the run, relative to this file."""
    output: Path
    """Folder of the table; every row has a run folder below it."""
    rows: Annotated[dict[str, dict[str, Any]], Field(min_length=1)]
    """Name of a row → what it changes in the run, e.g. `copy-paste: {renderer: {kind: copy_paste}}`."""
    sheet_columns: Annotated[int, Field(ge=1)] = 8
    """Samples per row and defect type on the contact sheet, all rows with the same masks."""


def load_bench(path: Path, overrides: list[str]) -> tuple[BenchConfig, dict[str, RunConfig]]:
    """The table's configuration, and the run of every row by its name.

    A row's section `renderer` with its own `kind` stands alone; every other section is merged into the run's.
    Raises FileNotFoundError or ValueError, naming the row, for what cannot be read or is unknown.
    """
    bench = load_config(BenchConfig, path, overrides)
    source = path.parent / bench.run
    load_config(RunConfig, source)  # a mistake there is the run's, not that of the first row
    common = read_yaml(source)
    runs = {}
    for name, changes in bench.rows.items():
        if not name or "/" in name or name.startswith("."):
            raise ValueError(
                f"{path}: a row is called {name!r}; its name is a folder's, so no slash and no leading dot"
            )
        values = _merged(common, changes)
        if "kind" in changes.get("renderer", {}):
            values["renderer"] = changes["renderer"]
        values["output"] = str(bench.output / name)
        values["compare"] = {**values.get("compare", {}), "synthetic_only": False}
        runs[name] = parse_config(RunConfig, values, source=f"{path}: rows.{name}")
    return bench, runs


def _merged(values: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    merged = dict(values)
    for key, change in changes.items():
        old = merged.get(key)
        merged[key] = _merged(old, change) if isinstance(old, dict) and isinstance(change, dict) else change
    return merged
