"""The verbs below `fastsynth data`: look at a data set, split it, hand a store to other tools, take data from them."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from fastsynth.cli_options import CHECK_FAILED, AsJson, ConfigPath, Overrides, Seed, counts, open_run, print_result

Format = Literal["coco", "coco-polygons", "yolo", "cvat", "imagefolder", "webdataset", "mvtec", "anomalib"]
ImportFormat = Literal["coco", "cvat"]

data_app = typer.Typer(no_args_is_help=True, help="Look at the data before hours are spent on them.")


@data_app.command("check")
def data_check(root: Annotated[Path, typer.Argument(help="Folder of the data set.")], as_json: AsJson = False) -> None:
    """Name every problem of a data set by its path; exits with 3 if there is any."""
    from fastsynth.data.check import check_dataset
    from fastsynth.data.datasets import open_dataset

    dataset = open_dataset(root)
    problems = check_dataset(dataset)
    summary = f"{len(dataset.normals)} normal and {len(dataset.defects)} defect images, {len(problems)} problems"
    lines = [f"{problem.path}: {problem.message}" for problem in problems]
    print_result([vars(problem) for problem in problems], "\n".join([*lines, summary]), as_json)
    if problems:
        raise typer.Exit(CHECK_FAILED)


@data_app.command("split")
def data_split(config: ConfigPath, overrides: Overrides = [], seed: Seed = None) -> None:  # noqa: B006
    """Make split.json in the run folder, once: a third of every defect type to learn from, the rest to judge on."""
    opened = open_run(config, overrides, seed, None)
    typer.echo(f"{opened.folder / 'split.json'}: {counts(opened.split)}")


@data_app.command("export")
def data_export(
    store: Annotated[Path, typer.Argument(help="Folder of the store, e.g. runs/x/synthetic.")],
    kind: Annotated[Format, typer.Option("--format", help="What to write; see docs/export.md.")],
    output: Annotated[Path, typer.Option(help="New folder.")],
    data: Annotated[Path | None, typer.Option(help="Data set of the store, for mvtec and anomalib.")] = None,
) -> None:
    """Hand the samples of a store to another tool; masks stay exact wherever the format can hold them."""
    from fastsynth.data.export.formats import export_store

    typer.echo(f"{output}: {export_store(store, output, kind=kind, data_root=data)} samples as {kind}")


@data_app.command("import")
def data_import(
    file: Annotated[Path, typer.Argument(help="COCO JSON, or CVAT's Segmentation mask 1.1 zip.")],
    kind: Annotated[ImportFormat, typer.Option("--format", help="What the file is.")],
    images: Annotated[Path, typer.Option(help="Folder of the pictures it names.")],
    output: Annotated[Path, typer.Option(help="New folder: an MVTec tree.")],
) -> None:
    """Make a data set from annotations of another tool; pictures without annotations are normal ones."""
    from fastsynth.data.imports.formats import import_annotations

    normals, defects = import_annotations(file, output, kind=kind, images=images)
    advice = "" if normals else f"; put normal pictures into {output / 'train' / 'good'} before you go on"
    typer.echo(f"{output}: {normals} normal and {defects} defect pictures{advice}")
