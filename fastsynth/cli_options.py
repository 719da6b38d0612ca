"""What the verbs of the command line share: options, opening a run, printing. Nothing heavy is imported here."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from fastsynth.config import Config
    from fastsynth.data.split import Split
    from fastsynth.run import Run
    from fastsynth.run_config import RunConfig
    from generators.layout_config import PhotoConfig

CHECK_FAILED = 3
"""Exit code of a verb that ran and whose check says no."""

ConfigPath = Annotated[Path, typer.Argument(help="YAML file; see configs/ for examples.", show_default=False)]
Overrides = Annotated[list[str], typer.Option("-s", "--set", help="key.sub=value, over the file; repeatable.")]
Seed = Annotated[int | None, typer.Option(help="Shorthand for -s seed=N.")]
Device = Annotated[str | None, typer.Option(help="auto, cpu, cuda or mps: shorthand for -s device=…")]
FollowLinks = Annotated[bool, typer.Option("--follow-links", help="As data.follow_links: links may leave the data.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Check configuration and data, say what would be done.")]


def read_config(path: Path, overrides: list[str]) -> "RunConfig":
    from fastsynth.config import load_config
    from fastsynth.run_config import RunConfig

    return load_config(RunConfig, path, overrides)


def read_photo_config(path: Path, overrides: list[str], **shorthands: int | str | None) -> "PhotoConfig":
    from fastsynth.config import load_config
    from generators.layout_config import PhotoConfig

    given = [f"{key}={value}" for key, value in shorthands.items() if value is not None]
    return load_config(PhotoConfig, path, [*overrides, *given])


def is_of_photos(path: Path) -> bool:
    """Whether a file configures a renderer of whole pictures, as `photo train` reads it, rather than a run."""
    from fastsynth.config import read_yaml

    values = read_yaml(path)
    data = values.get("data") if isinstance(values, dict) else None
    return isinstance(data, dict) and "photos" in data


def read_any_config(path: Path, overrides: list[str]) -> "Config":
    """What configures a run, a table of renderers or a renderer of whole pictures, told apart by its keys."""
    from fastsynth.bench_config import load_bench
    from fastsynth.config import read_yaml

    values = read_yaml(path)
    if isinstance(values, dict) and "rows" in values:
        return load_bench(path, overrides).config
    return read_photo_config(path, overrides) if is_of_photos(path) else read_config(path, overrides)


def open_run(path: Path, overrides: list[str], seed: int | None, device: str | None) -> "Run":
    from fastsynth.run import Run

    shorthands = {"seed": seed, "device": device}
    given = [f"{key}={value}" for key, value in shorthands.items() if value is not None]
    return Run(read_config(path, [*overrides, *given]))


def counts(split: "Split") -> str:
    return f"{len(split.train)} training, {len(split.val)} validation, {len(split.test)} test images"


def print_result(value: Any, text: str, as_json: bool) -> None:
    """`value` as JSON, or `text`."""
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False) if as_json else text)
