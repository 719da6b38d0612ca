"""Layout files and runs: a stored sample as a layout file, and a layout file rendered by a run's renderer."""

from pathlib import Path
from typing import Any, Literal, assert_never

import numpy as np

from fastsynth.data.export.folder import inside
from fastsynth.data.store import read_manifest
from fastsynth.files import atomic_write, sha256_file, write_json
from fastsynth.images import encode_png, outline, read_mask, to_uint8
from fastsynth.layouts.editing import looks_of
from fastsynth.layouts.editing_modes import edit_render, full_render, paired_render
from fastsynth.recipes.editing import Edits, LayoutFile, create_layout, described
from fastsynth.recipes.rendering import draw_layouts, load_renderer
from fastsynth.run import Run
from fastsynth.sheets import contact_sheet, save_sheet
from fastsynth.types import Renderer, Sample

Mode = Literal["edit", "full", "paired"]
TILE = 256


def layout_from_store(path: Path, run: Run, sample_id: int, *, edits: Edits | None = None) -> LayoutFile:
    """A new layout file at `path` from a stored sample: its instances, its background, and the picture as stored.

    edits: as in `create_layout`.
    Raises ValueError when the run has no such sample, its settings have changed since, or `path` exists.
    """
    line = next((line for line in read_manifest(run.store_folder) if int(line["id"]) == sample_id), None)
    if line is None:
        raise ValueError(f"{run.store_folder}: no sample {sample_id:06d}; the manifest lists what there is")
    (layout,) = draw_layouts(run, [sample_id], attempt=line.get("attempt", 0))
    stored = inside(run.store_folder, str(line["mask"]))
    if layout.source != line["source_image"] or not np.array_equal(read_mask(stored), layout.foreground):
        raise ValueError(
            f"{stored} is not what this configuration draws as sample {sample_id:06d}; pass the run's own config.yaml"
        )
    picture = inside(run.store_folder, str(line["image"]))
    return create_layout(path, layout, run.path(layout.source), picture, line["seed"], edits=edits)


def load_run_renderer(run: Run, file: LayoutFile) -> Renderer:
    """The run's renderer, for this layout. Raises ValueError when that shows a test image of the run."""
    run.guard.check(file.pictures)
    return load_renderer(run)


def render_layout(
    renderer: Renderer,
    file: LayoutFile,
    *,
    model_sha256: str | None,
    output: Path,
    mode: Mode = "edit",
    looks: int = 1,
    sheet: Path | None = None,
) -> list[Path]:
    """Render the layout as it is now; returns the files written.

    model_sha256: hash of the renderer's weights, as `Run.model_sha256` has it, for the record; None without any.
    output: <name>.png; beside it go <name>_mask.png, <name>_instances.png (16 bit, 0 or the topmost id) and
    <name>.json. Several looks are <name>_1.png …; mode "paired" adds <name>_without.png.
    sheet: a picture of all of it for looking at.
    Raises ValueError for another suffix, or what the renderer refuses.
    """
    if output.suffix.lower() != ".png":
        raise ValueError(f"{output}: renders are exact; write them as .png")
    seed, history = file.document.seed, file.history
    layouts = looks_of(history.layout, looks, seed=seed)
    seeds = [seed] * looks
    without: Sample | None = None
    match mode:
        case "edit":
            samples = edit_render(renderer, history.first, layouts, seeds, picture=file.picture)
        case "full":
            samples = full_render(renderer, layouts, seeds)
        case "paired":
            pairs = paired_render(renderer, layouts, seeds)
            samples, without = [pair.with_defects for pair in pairs], pairs[0].without
        case _:
            assert_never(mode)
    files = {_beside(output, f"_{n}" if looks > 1 else ""): s.image for n, s in enumerate(samples, start=1)}
    files[_beside(output, "_mask")] = samples[0].mask
    files[_beside(output, "_instances")] = history.layout.instance_map()
    if without is not None:
        files[_beside(output, "_without")] = without.image
    for path, pixels in files.items():
        atomic_write(path, encode_png(pixels))
    record = {
        **file.describe(),
        "mode": mode,
        "renderer": renderer.name,
        "model_sha256": model_sha256,
        "looks": [_look(sample) for sample in samples],
        "sha256": {path.name: sha256_file(path) for path in files},
    }
    write_json(output.with_suffix(".json"), record)
    if sheet is not None:
        save_sheet(sheet, _sheet(file, samples))
    return [*files, output.with_suffix(".json"), *([sheet] if sheet is not None else [])]


def _sheet(file: LayoutFile, samples: list[Sample]) -> np.ndarray:
    """The picture before, and every look, each with and without the outlines of the instances."""
    before = file.history.first
    shown = before.background if file.picture is None else file.picture
    plain = [to_uint8(picture) for picture in (shown, *(sample.image for sample in samples))]
    outlined = [
        outline(picture, layout.foreground)
        for picture, layout in zip(plain, (before, *(sample.layout for sample in samples)), strict=True)
    ]
    labels = ["before", *(["after"] if len(samples) == 1 else [f"look {n}" for n in range(1, len(samples) + 1)])]
    return contact_sheet([plain, outlined], row_labels=["", "outlined"], column_labels=labels, tile=TILE)


def _look(sample: Sample) -> dict[str, Any]:
    instances = [described(instance) for instance in sample.layout.instances]
    return {
        "seed": sample.seed,
        "num_inference_steps": sample.num_inference_steps,
        "instances": instances,
        "notes": sample.notes,
    }


def _beside(path: Path, ending: str) -> Path:
    return path.with_name(f"{path.stem}{ending}{path.suffix}")
