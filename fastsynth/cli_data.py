"""The verbs below `fastsynth data`: look at a data set, split it, hand a store to other tools, take data from them."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from fastsynth.cli_options import (
    CHECK_FAILED,
    AsJson,
    ConfigPath,
    FollowLinks,
    Overrides,
    Seed,
    counts,
    open_run,
    print_result,
)

if TYPE_CHECKING:
    from fastsynth.data.split import Portion

Format = Literal[
    "coco", "coco-polygons", "yolo", "cvat", "imagefolder", "webdataset", "mvtec", "anomalib", "nifti", "dicom"
]
PARTS = {"train": "training", "val": "validation", "test": "test"}
ImportFormat = Literal["coco", "cvat", "nifti", "dicom", "pictures"]

data_app = typer.Typer(no_args_is_help=True, help="Look at the data before hours are spent on them.")


@data_app.command("check")
def data_check(
    root: Annotated[Path, typer.Argument(help="Folder of the data set.")],
    split: Annotated[Path | None, typer.Option(help="split.json of a run, to look whether the data still fit.")] = None,
    follow_links: FollowLinks = False,
    as_json: AsJson = False,
) -> None:
    """Name every problem of a data set by its path; exits with 3 if there is any."""
    from fastsynth.data.check import check_dataset
    from fastsynth.data.datasets import open_dataset
    from fastsynth.data.split import Split

    dataset = open_dataset(root, follow_links=follow_links)
    problems = check_dataset(dataset, None if split is None else Split.read(split))
    summary = f"{len(dataset.normals)} normal and {len(dataset.defects)} defect images, {len(problems)} problems"
    lines = [f"{problem.path}: {problem.message}" for problem in problems]
    print_result([vars(problem) for problem in problems], "\n".join([*lines, summary]), as_json)
    if problems:
        raise typer.Exit(CHECK_FAILED)


@data_app.command("split")
def data_split(config: ConfigPath, overrides: Overrides = [], seed: Seed = None) -> None:  # noqa: B006
    """Make split.json in the run folder, once: a third of every defect type to learn from, the rest to judge on.

    Says of how many pieces the images of each type are: ten pictures of one piece teach little more than one.
    """
    opened = open_run(config, overrides, seed, None)
    from fastsynth.data.split import portions

    made = "made earlier, for another one choose another output; " if opened.split_path.is_file() else ""
    typer.echo(f"{opened.split_path}: {made}{counts(opened.split)}")
    found = portions(opened.dataset, opened.split)
    several = len({category for category, _ in found}) > 1
    for (category, defect), parts in found.items():
        name = defect or "normal"
        told = ", ".join(f"{PARTS[part]} {_portion(portion)}" for part, portion in parts.items() if portion.images)
        typer.echo(f"{category}/{name}: {told}" if several else f"{name}: {told}")


@data_app.command("demo")
def data_demo(
    output: Annotated[Path, typer.Argument(help="New folder: an MVTec tree.")],
    normals: Annotated[int, typer.Option(min=1, help="Normal pictures of a product; a quarter more to test on.")] = 40,
    defects: Annotated[int, typer.Option(min=2, help="Pictures of every defect type.")] = 12,
    side: Annotated[int, typer.Option(min=64, help="Side of the square pictures, px.")] = 256,
    seed: Annotated[int, typer.Option(min=0, help="Other pictures.")] = 0,
) -> None:
    """Draw the data set of `fastsynth demo`, as large as wanted: two products, eight defect types, exact masks."""
    from fastsynth.recipes.whole import draw_demo_data

    draw_demo_data(output, normals=normals, defects_per_type=defects, size=(side, side), seed=seed)
    typer.echo(f"{output}: 2 products, {normals} normal pictures each, 8 defect types, {defects} pictures each")


@data_app.command("export")
def data_export(
    store: Annotated[Path, typer.Argument(help="Folder of the store, e.g. runs/x/synthetic.")],
    kind: Annotated[Format, typer.Option("--format", help="What to write; see docs/export.md.")],
    output: Annotated[Path, typer.Option(help="New folder.")],
    data: Annotated[Path | None, typer.Option(help="Data set of the store, for mvtec, anomalib, nifti, dicom.")] = None,
) -> None:
    """Hand the samples of a store to another tool; masks stay exact wherever the format can hold them."""
    from fastsynth.data.export.formats import export_store

    typer.echo(f"{output}: {export_store(store, output, kind=kind, data_root=data)} samples as {kind}")


@data_app.command("import")
def data_import(
    source: Annotated[Path, typer.Argument(help="COCO JSON, CVAT's zip, or a folder of NIfTI, DICOM or 16-bit files.")],
    kind: Annotated[ImportFormat, typer.Option("--format", help="What it is; see docs/export.md and docs/medical.md.")],
    output: Annotated[Path, typer.Option(help="New folder: an MVTec tree.")],
    images: Annotated[Path | None, typer.Option(help="coco, cvat: folder of the pictures the file names.")] = None,
    masks: Annotated[Path | None, typer.Option(help="Volumes: folder of marks with the names of the images.")] = None,
    label: Annotated[list[str], typer.Option(help="Volumes: 2=tumour names a mark; the others count as healthy.")] = [],  # noqa: B006
    patient: Annotated[
        str | None, typer.Option(help="Volumes: id, tag:KEYWORD, regex:EXPRESSION or file; who stays together.")
    ] = None,
    axis: Annotated[int, typer.Option(min=0, max=2, help="nifti: axis along which slices are taken.")] = 2,
) -> None:
    """Make a data set from annotations of another tool, or from medical images; what is not marked is normal."""
    if kind == "coco" or kind == "cvat":
        _import_annotations(source, kind, images, output)
        return
    from fastsynth.recipes.medical import import_with_preview

    found = import_with_preview(
        source, output, kind=kind, masks=masks, patient=patient, axis=axis, labels=_labels(label)
    )
    advice = "" if found.patients > 1 else "; all of one patient, which no split can divide: see --patient"
    typer.echo(
        f"{output}: {found.volumes} volumes of {found.patients} patients, {found.normals} normal and {found.defects} "
        f"defect slices, {found.unused} that show nothing{advice}"
    )


def _import_annotations(source: Path, kind: Literal["coco", "cvat"], images: Path | None, output: Path) -> None:
    from fastsynth.data.imports.formats import import_annotations

    if images is None:
        raise ValueError(f"{kind} only names its pictures; pass their folder with --images")
    normals, defects = import_annotations(source, output, kind=kind, images=images)
    advice = "" if normals else f"; put normal pictures into {output / 'train' / 'good'} before you go on"
    typer.echo(f"{output}: {normals} normal and {defects} defect pictures{advice}")


def _labels(texts: list[str]) -> dict[int, str] | None:
    """`2=tumour` → {2: "tumour"}; None when nothing is named."""
    labels = {}
    for text in texts:
        mark, _, name = text.partition("=")
        if not mark.isdecimal() or int(mark) == 0 or not name:
            raise ValueError(f"--label {text}: wanted a mark above 0 and a name, like 2=tumour")
        labels[int(mark)] = name
    return labels or None


def _portion(portion: "Portion") -> str:
    """The number of images, and that of pieces where they are fewer."""
    if portion.pieces == portion.images:
        return str(portion.images)
    return f"{portion.images} ({portion.pieces} piece{'s' if portion.pieces > 1 else ''})"
