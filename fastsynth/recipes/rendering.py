"""From data to a store: train the renderer, draw layouts, render, check. Every function works in a run's folder.

Each is resumable: called again it continues where it was stopped, or returns what is finished.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TypeVar, assert_never

import numpy as np
import torch
from diffusers.utils.logging import disable_progress_bar
from safetensors import SafetensorError
from tqdm import tqdm

from fastsynth import __version__
from fastsynth.data.check import Problem, check_dataset
from fastsynth.data.datasets import Record
from fastsynth.data.store import Identity, Store, read_manifest
from fastsynth.diffusion.base import build_scheduler
from fastsynth.diffusion.building import new_pipeline
from fastsynth.diffusion.config import FASTConfig
from fastsynth.diffusion.pipeline import FASTPipeline
from fastsynth.diffusion.renderer import FASTRenderer
from fastsynth.diffusion.training import train_fast
from fastsynth.diffusion.views import EncodedViews, defect_views, encode_views, normal_views
from fastsynth.files import atomic_write, sha256_bytes, sha256_folder, sha256_json, write_json
from fastsynth.images import encode_png, read_image
from fastsynth.layouts.exemplar import Exemplar, ExemplarBank
from fastsynth.quality.audit import AuditReport, audit
from fastsynth.recipes.filtering import Filling, gate_sha256, open_gate
from fastsynth.run import TRAINED_FROM, Run
from fastsynth.sheets import contact_sheet, defect_tile, save_sheet
from fastsynth.types import Layout, Renderer, Sample, sample_seed
from generators.config import CopyPasteConfig, CutPasteConfig, DRAEMConfig, NSAConfig
from generators.reference import ReferenceRenderer, copy_paste, cutpaste, draem, nsa

T = TypeVar("T")
UNIT = 8
"""Samples that are computed together, always: ids 0 … 7, 8 … 15, … Kernels round differently in another batch, so
what is missing of a unit is made by computing the whole unit again."""
TRAINED = "training.json"
GENERATION = "generation.json"


def check_data(run: Run) -> list[Problem]:
    """Every problem of the data set, by path; empty when all is well."""
    return check_dataset(run.dataset, run.split)


def train_renderer(run: Run) -> Path:
    """Train FAST on the training defects and normals; returns the folder of the saved pipeline.

    The reference renderers have nothing to train: then the folder stays away.
    """
    settings = run.config.renderer
    if not isinstance(settings, FASTConfig) or (run.model_folder / TRAINED).is_file():
        return run.model_folder
    with run.stage("train"), _disk_errors(run.folder):
        write_json(run.model_folder / TRAINED_FROM, run.training_settings())
        exemplars = training_exemplars(run)
        pipeline = _new_pipeline(run, settings, exemplars)
        training = settings.training
        defects, normals = _encoded_views(run, settings, pipeline, exemplars)
        seconds = train_fast(
            pipeline,
            defects,
            normals,
            output=run.folder,
            seed=run.config.seed,
            log=lambda values: run.log({"stage": "train", **values}),
            **training.model_dump(exclude={"defect_crops", "normal_crops"}),
        )
        pipeline.save_pretrained(run.model_folder)
        write_json(run.model_folder / TRAINED, {"steps": training.max_train_steps, "minutes": round(seconds / 60, 2)})
    return run.model_folder


@contextmanager
def _disk_errors(folder: Path) -> Iterator[None]:
    """Weights are written by native code, which reports a full disk in its own ways."""
    try:
        yield
    except (SafetensorError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "PytorchStreamWriter" not in str(error):
            raise
        raise OSError(f"{folder}: {error}; free some space and run the same command again") from error


def load_renderer(run: Run) -> Renderer:
    """The run's renderer. Raises FileNotFoundError when it has to be trained and is not."""
    settings = run.config.renderer
    match settings:
        case FASTConfig():
            return _load_fast(run, settings)
        case CopyPasteConfig():
            fill = copy_paste(ExemplarBank(training_exemplars(run)), blend=settings.blend)
        case CutPasteConfig():
            fill = cutpaste(jitter=settings.jitter)
        case DRAEMConfig():
            fill = draem(opacity=settings.opacity)
        case NSAConfig():
            fill = nsa(partial(_random_normal, run), scale=settings.scale)
        case _:
            assert_never(settings)
    return ReferenceRenderer(settings.kind, fill, context=settings.context)


def _random_normal(run: Run, category: str, rng: np.random.Generator) -> np.ndarray:
    records = [record for record in run.training_normals() if record.category == category]
    return run.read(records[rng.integers(len(records))])[0]


def _load_fast(run: Run, settings: FASTConfig) -> FASTRenderer:
    _require_trained(run)
    disable_progress_bar()  # of loading: it is over before it can be read
    pipeline = FASTPipeline.from_pretrained(run.model_folder)
    pipeline.scheduler = build_scheduler(
        kernel=settings.kernel, spacing=settings.spacing, solver_order=settings.solver_order
    )
    pipeline.to(_device(run))
    return FASTRenderer(
        pipeline,
        ExemplarBank(training_exemplars(run)),
        context=settings.context,
        num_inference_steps=settings.num_inference_steps,
        farm=settings.farm,
        start=settings.start,
        strength=settings.strength,
        feather=settings.feather,
    )


def _require_trained(run: Run) -> None:
    trained = run.config.renderer.kind != "fast" or (run.model_folder / TRAINED).is_file()
    if not trained:
        raise FileNotFoundError(f"{run.model_folder}: no trained renderer; run `fastsynth train` first")


def draw_layouts(run: Run, ids: Sequence[int], *, attempt: int = 0) -> Iterator[Layout]:
    """The layouts of the given samples; each depends on the run's seed, its own id and the attempt alone."""
    samplers, normals = run.layout_samplers(), run.training_normals()
    pairs = sorted({(record.category, record.defect or "") for record in run.training_defects()})
    for sample_id in ids:
        category, defect = pairs[sample_id % len(pairs)]
        rng = np.random.default_rng((run.config.seed, sample_id, *([attempt] if attempt else [])))
        backgrounds = [record for record in normals if record.category == category]
        background = backgrounds[rng.integers(len(backgrounds))]
        image = read_image(run.path(background.image))
        yield samplers[category].draw(image, background.image, category, defect, rng)


def draw_masks(run: Run, *, count: int, path: Path) -> Path:
    """A contact sheet of layouts, before any training: the normal images with the outlines of what would be drawn."""
    rows: dict[str, list[np.ndarray]] = {}
    for layout in draw_layouts(run, range(count)):
        tile = defect_tile(layout.background, layout.foreground, size=160, context=3.0, outline=True)
        rows.setdefault(f"{layout.category}, {layout.defect}", []).append(tile)
    save_sheet(path, contact_sheet(list(rows.values()), row_labels=list(rows), tile=160))
    return path


def generate(run: Run, *, renderer: Renderer | None = None) -> Path:
    """Fill the store up to `generate.count` samples; what the gate refuses is drawn again. Returns its folder."""
    count, settings = run.config.generate.count, run.config.generate.gate
    if renderer is None:
        _require_trained(run)  # or the store would be claimed for a model that does not exist yet
    with run.stage("generate"), Store.open(run.store_folder, identity=_identity(run)) as store:
        filling = Filling(
            store,
            source_sha256=run.split.sha256,
            gate=open_gate(run) if settings.enabled else None,
            attempts=settings.attempts,
            keep_rejected=settings.keep_rejected,
        )
        missing = filling.missing(_units(count), count=count)
        renderer = renderer or (load_renderer(run) if missing else None)
        started = time.monotonic()
        for unit in tqdm(missing, desc="generate", unit="unit", disable=not missing):
            assert renderer is not None
            filling.settle(unit, partial(_render, run, renderer), count=count)
        made = filling.made
        filling.finish(count=count)
    if made:
        speed = {"made": made, "seconds_per_image": round((time.monotonic() - started) / made, 4)}
        write_json(run.folder / GENERATION, speed)  # not in the store, whose bytes know no clock
    return run.store_folder


def replay(run: Run, sample_id: int, *, attempt: int = 0) -> Sample:
    """Make a drawing of a sample again, from the run alone."""
    unit = [sample_id] if attempt else next(unit for unit in _units(sample_id + 1) if sample_id in unit)
    return _render(run, load_renderer(run), unit, attempt)[unit.index(sample_id)]


def replay_to(run: Run, sample_id: int, path: Path) -> bool:
    """Write a sample made again to `path`; whether its bytes are those of the stored image."""
    line = next((line for line in read_manifest(run.store_folder) if int(line["id"]) == sample_id), None)
    if line is None:
        raise ValueError(f"{run.store_folder}: no sample {sample_id:06d}; the manifest lists what there is")
    data = encode_png(replay(run, sample_id, attempt=line.get("attempt", 0)).image)
    atomic_write(path, data)
    return sha256_bytes(data) == line["image_sha256"]


def audit_store(run: Run) -> AuditReport:
    """Re-check the store from its files alone."""
    return audit(run.store_folder, data_root=run.config.data.root, split=run.split)


def draw_sheet(run: Run, *, columns: int = 8, tile: int = 128) -> Path:
    """`sheet.png`: real training defects beside synthetic ones, at equal scale, with and without their outlines."""
    real: dict[tuple[str, str], list[Record]] = {}
    for record in run.training_defects():
        real.setdefault((record.category, record.defect or ""), []).append(record)
    lines = list(read_manifest(run.store_folder))
    rows, labels = [], []
    for (category, defect), records in sorted(real.items()):
        made = [line for line in lines if (line["category"], line["defect"]) == (category, defect)]
        photos = [run.read(record) for record in _spread(records, columns)]
        renders = [_stored(run, line) for line in _spread(made, columns)]
        for name, pairs in (("real", photos), ("synthetic", renders)):
            for outline in (False, True):
                rows.append([defect_tile(*pair, size=tile, outline=outline) for pair in pairs])
                labels.append(f"{defect}, {name}" if not outline else "")
    path = run.folder / "sheet.png"
    save_sheet(path, contact_sheet(rows, row_labels=labels, tile=tile))
    return path


def _render(run: Run, renderer: Renderer, unit: Sequence[int], attempt: int = 0) -> list[Sample]:
    seeds = [sample_seed(run.config.seed, sample_id, attempt) for sample_id in unit]
    return renderer.render(list(draw_layouts(run, unit, attempt=attempt)), seeds)


def _units(count: int) -> list[list[int]]:
    """Ids in units of `UNIT`; the last one is whole too, so that a larger count later starts from the same bytes."""
    return [list(range(start, start + UNIT)) for start in range(0, count, UNIT)]


def _identity(run: Run) -> Identity:
    settings = run.config.generate.gate
    identity = Identity(
        config_sha256=run.rendering_sha256(),
        # the weights alone: a model's other files tell of clocks, paths and versions
        model_sha256=sha256_folder(run.model_folder, "*.safetensors") if run.model_folder.is_dir() else None,
        data_sha256=run.training_sha256(),
        run_seed=run.config.seed,
        version=__version__,
        defects=sorted({record.defect for record in run.dataset.defects if record.defect}),
    )
    if settings.enabled:
        identity["gate_sha256"] = gate_sha256(settings)
    return identity


def training_exemplars(run: Run) -> list[Exemplar]:
    """The training defects, decoded. Raises ValueError for a mask that does not fit its image."""
    found = []
    for record in run.training_defects():
        assert record.defect is not None
        assert record.mask is not None
        image, foreground = run.read(record)
        found.append(Exemplar(image, foreground, record.category, record.defect, record.mask))
    return found


def _encoded_views(
    run: Run, settings: FASTConfig, pipeline: FASTPipeline, exemplars: Sequence[Exemplar]
) -> tuple[EncodedViews, EncodedViews]:
    """Views of defects and of normals, encoded once and kept on disk while the training can still be interrupted."""
    normals = run.training_normals()
    defect_count, normal_count = settings.training.defect_crops, settings.training.normal_crops
    made_from = [
        run.training_sha256(),
        run.config.seed,
        settings.crop_size,
        settings.context,
        defect_count,
        normal_count,
        sha256_bytes(b"".join(t.cpu().numpy().tobytes() for t in pipeline.vae.state_dict().values())),
    ]
    folder = run.folder / "cache" / f"views-{sha256_json(made_from)[:12]}"

    def read_normal(index: int) -> tuple[np.ndarray, str]:
        return run.read(normals[index])[0], normals[index].category

    size, context = settings.crop_size, settings.context
    rngs = [np.random.default_rng((run.config.seed, stream)) for stream in (1, 2)]
    of_defects = defect_views(exemplars, count=defect_count, size=size, context=context, rng=rngs[0])
    of_normals = normal_views(
        read_normal, len(normals), exemplars, count=normal_count, size=size, context=context, rng=rngs[1]
    )
    views = {"defects": (of_defects, defect_count), "normals": (of_normals, normal_count)}
    for name, (drawn, total) in views.items():
        path = folder / f"{name}.safetensors"
        if not path.is_file():
            encode_views(drawn, pipeline.vae, pipeline.tokens, total=total).save(path)
    return EncodedViews.load(folder / "defects.safetensors"), EncodedViews.load(folder / "normals.safetensors")


def _new_pipeline(run: Run, settings: FASTConfig, exemplars: Sequence[Exemplar]) -> FASTPipeline:
    pipeline = new_pipeline(
        sorted({(exemplar.category, exemplar.defect) for exemplar in exemplars}),
        **settings.base.model_dump(),
        size=settings.crop_size,
        kernel=settings.kernel,
        spacing=settings.spacing,
        solver_order=settings.solver_order,
        seed=run.config.seed,
    )
    pipeline.to(_device(run))
    return pipeline


def _device(run: Run) -> torch.device:
    found = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    match run.config.device:
        case "auto":
            return torch.device("cuda" if found["cuda"] else "cpu")
        case name if found[name]:
            return torch.device(name)
        case name:
            raise ValueError(
                f"device is {name}, but this machine has {', '.join(d for d in found if found[d])}; use auto"
            )


def _spread(items: Sequence[T], count: int) -> list[T]:
    """At most `count` of the items, evenly spaced: neighbours are often exposures of one piece."""
    picks = np.linspace(0, len(items) - 1, min(count, len(items))).round().astype(int)
    return [items[pick] for pick in picks]


def _stored(run: Run, line: dict[str, object]) -> tuple[np.ndarray, np.ndarray]:
    image = read_image(run.store_folder / str(line["image"]))
    return image, read_image(run.store_folder / str(line["mask"]))[..., 0] > 0
