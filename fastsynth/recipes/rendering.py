"""From layouts to a store: train the renderer, render, check. Every function works in a run's folder.

Each is resumable: called again it continues where it was stopped, or returns what is finished.
"""

from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from math import prod
from pathlib import Path
from typing import TypeVar, assert_never

import numpy as np
from tqdm import tqdm

from fastsynth import __version__
from fastsynth.data.datasets import Record
from fastsynth.data.export.folder import inside
from fastsynth.data.identity import require_identity
from fastsynth.data.manifest import Line, Shard
from fastsynth.data.medical.sidecar import NOTICE, notice_of
from fastsynth.data.store import Identity, Store, read_manifest
from fastsynth.diffusion.config import FASTConfig
from fastsynth.environment import reset_peak_memory
from fastsynth.errors import CheckFailedError
from fastsynth.files import atomic_write, read_json, sha256_bytes, write_json
from fastsynth.images import encode_png, image_size, read_image, read_mask
from fastsynth.layouts.exemplar import ExemplarBank
from fastsynth.layouts.severity import with_severity
from fastsynth.locks import InUseError
from fastsynth.parallel import wait_for_all
from fastsynth.processes import process_count, process_index
from fastsynth.quality.audit import AuditReport, audit
from fastsynth.recipes import fast, layout_training
from fastsynth.recipes.filtering import Filling, all_drawn, gate_settings, open_gate
from fastsynth.recipes.layouts import draw_layouts
from fastsynth.recipes.speed import SpeedLog
from fastsynth.recipes.trained import TRAINED, verify_trained
from fastsynth.run import TRAINED_FROM, Run
from fastsynth.run_config import HybridConfig, SingleConfig, singles
from fastsynth.sheets import contact_sheet, defect_tile, save_sheet
from fastsynth.stopping import gentle_stop
from fastsynth.types import Renderer, Sample, sample_seed
from generators.config import CopyPasteConfig, CutPasteConfig, DRAEMConfig, NSAConfig
from generators.hybrid import HybridRenderer
from generators.layout_config import CRNConfig, Pix2PixHDConfig
from generators.reference import ReferenceRenderer, copy_paste, cutpaste, draem, nsa

T = TypeVar("T")
UNIT = 8
"""Samples that are computed together, always: ids 0 … 7, 8 … 15, … Kernels round differently in another batch, so
what is missing of a unit is made by computing the whole unit again."""
UNIT_PIXELS = 2**27
"""Pixels of all pictures of a unit: of very large ones fewer are computed together, or they would not fit in memory."""


def train_renderer(run: Run) -> Path:
    """Train the renderer on the training defects and normals; returns the folder of the saved model.

    The reference renderers have nothing to train: then the folder stays away.
    """
    if run.parts:
        _train_parts(run)
        return run.model_folder
    if (run.model_folder / TRAINED).is_file():
        return run.model_folder
    match run.config.renderer:
        case FASTConfig() as settings:
            fast.train(run, settings)
        case CRNConfig() | Pix2PixHDConfig() as settings:
            layout_training.train(run, settings)
        case _:
            pass
    return run.model_folder


def _train_parts(run: Run) -> None:
    """Train what has to be trained of a hybrid, part by part; training.json of the whole adds them up."""
    trained = {name: part for name, part in run.parts.items() if _is_trained_kind(part.config.renderer)}
    if not trained:
        return
    missing = [part for part in trained.values() if not (part.model_folder / TRAINED).is_file()]
    if missing:
        (run.model_folder / TRAINED).unlink(missing_ok=True)  # a part that came later is not in it
    write_json(run.model_folder / TRAINED_FROM, run.training_settings())
    for part in missing:
        train_renderer(part)
    if process_index() == 0:
        told = {name: read_json(part.model_folder / TRAINED) for name, part in trained.items()}
        parts = {name: {key: one[key] for key in ("steps", "minutes")} for name, one in told.items()}
        steps, minutes = (sum(part[key] for part in parts.values()) for key in ("steps", "minutes"))
        cost = {"minutes": round(minutes, 2), "peak_memory_mb": max(one["peak_memory_mb"] for one in told.values())}
        write_json(run.model_folder / TRAINED, {"steps": steps, **cost, "parts": parts})


def load_renderer(run: Run) -> Renderer:
    """The run's renderer. Raises FileNotFoundError when it has to be trained and is not."""
    settings = run.config.renderer
    match settings:
        case FASTConfig():
            _require_trained(run)
            return fast.load(run, settings)
        case CRNConfig() | Pix2PixHDConfig():
            _require_trained(run)
            return layout_training.load(run, settings)
        case CopyPasteConfig():
            fill = copy_paste(ExemplarBank(run.exemplars("train")), blend=settings.blend)
        case CutPasteConfig():
            fill = cutpaste(jitter=settings.jitter)
        case DRAEMConfig():
            fill = draem(opacity=settings.opacity)
        case HybridConfig(parts=parts):
            return HybridRenderer({name: (parts[name].weight, load_renderer(part)) for name, part in run.parts.items()})
        case NSAConfig():
            fill = nsa(partial(_random_normal, run), scale=settings.scale)
        case _:
            assert_never(settings)
    return ReferenceRenderer(settings.kind, fill, context=settings.context)


def _random_normal(run: Run, category: str, rng: np.random.Generator) -> np.ndarray:
    records = [record for record in run.training_normals if record.category == category]
    return run.read(records[rng.integers(len(records))])[0]


def _is_trained_kind(settings: SingleConfig | HybridConfig) -> bool:
    return isinstance(settings, FASTConfig | CRNConfig | Pix2PixHDConfig)


def _require_trained(run: Run) -> None:
    """Raises FileNotFoundError without a model, ValueError for one that is not as it was saved."""
    for part in run.parts.values():
        _require_trained(part)
    if not _is_trained_kind(run.config.renderer):
        return
    if not (run.model_folder / TRAINED).is_file():
        raise FileNotFoundError(f"{run.model_folder}: no trained renderer; run `fastsynth train` first")
    verify_trained(run.model_folder)


def generate(run: Run, *, renderer: Renderer | None = None, shard: Shard | None = None) -> Path:
    """Fill the store up to `generate.count` samples; what the gate refuses is drawn again. Returns its folder.

    shard: only this part of the units, beside the processes that make the other parts; the last one to end merges
    them. Processes that were launched together are shards of their own accord, and return when all is merged.
    """
    if renderer is None:
        _require_trained(run)  # or the store would be claimed for a model that does not exist yet, or a damaged one
    launched = shard is None and process_count() > 1
    if launched:
        shard = Shard(process_index() + 1, process_count())
    renderer = _fill(run, renderer, shard)
    gate = run.config.generate.gate
    attempts = gate.attempts if gate.enabled else 1
    if shard is not None and all_drawn(run.store_folder, count=run.config.generate.count, attempts=attempts):
        with suppress(InUseError):  # another one that has just ended is merging
            _fill(run, renderer, None)
    if launched:
        wait_for_all(cpu=run.config.device == "cpu")
    return run.store_folder


def _fill(run: Run, renderer: Renderer | None, shard: Shard | None) -> Renderer | None:
    """Fill the store, or one shard of it; returns the renderer, if it was needed."""
    count, settings = run.config.generate.count, run.config.generate.gate
    reset_peak_memory()

    def draw(unit: Sequence[int], attempt: int) -> list[Sample]:
        nonlocal renderer
        if renderer is None:
            with speed.paused():
                renderer = load_renderer(run)
        return _render(run, renderer, unit, attempt)

    identity = _identity(run)
    with (
        run.stage("generate", shared=shard is not None, require=lambda: require_identity(run.store_folder, identity)),
        Store.open(run.store_folder, identity=identity, shard=shard) as store,
    ):
        filling = Filling(
            store,
            source_sha256=run.split.sha256,
            gate=open_gate(run) if settings.enabled else None,
            attempts=settings.attempts,
            keep_rejected=settings.keep_rejected,
            halo=run.halo,
            # the gate looks at the change anyway; without it only networks that may ignore a layout are worth it
            with_truth=settings.enabled
            or any(isinstance(one, CRNConfig | Pix2PixHDConfig) for one in singles(run.config.renderer)),
        )
        units = [unit for number, unit in enumerate(_units(run, count)) if shard is None or shard.owns(number)]
        missing = filling.missing(units, count=count)
        # the log lies beside the store, whose bytes know no clock
        with gentle_stop() as stop, SpeedLog.open(run.folder, store.done, anew=filling.untouched) as speed:
            for unit in tqdm(missing, desc="generate", unit="unit", disable=not missing):
                filling.settle(unit, draw, count=count)
                speed.note(filling.made)
                if stop.requested:
                    raise KeyboardInterrupt
        filling.finish(count=count)
    return renderer


def replay(run: Run, sample_id: int, *, attempt: int = 0) -> Sample:
    """Make a drawing of a sample again, from the run alone."""
    unit = [sample_id] if attempt else next(unit for unit in _units(run, sample_id + 1) if sample_id in unit)
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


def require_sound_store(run: Run) -> None:
    """Audit the store. Raises CheckFailedError that names the first problem."""
    with run.stage("audit"):
        report = audit_store(run)
    if report.problems:
        raise CheckFailedError(
            f"{run.store_folder}: {len(report.problems)} problems, first: {report.problems[0]}; "
            "`fastsynth audit` lists all"
        )


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
    layouts = list(draw_layouts(run, unit, attempt=attempt))
    if isinstance(renderer, HybridRenderer):
        # by the first drawing's seeds: what the gate refuses is drawn again by the same part, or shares would shift
        choices = [sample_seed(run.config.seed, sample_id) for sample_id in unit]
        drawn = renderer.render(layouts, seeds, chosen_by=choices)
    else:
        drawn = renderer.render(layouts, seeds)
    return [with_severity(sample) for sample in drawn]


def _units(run: Run, count: int) -> list[list[int]]:
    """Ids in units; the last one is whole too, so that a larger count later starts from the same bytes."""
    size = unit_size(run)
    return [list(range(start, start + size)) for start in range(0, count, size)]


def unit_size(run: Run) -> int:
    """`UNIT`, or fewer for large pictures; the first training normal of each category stands for the others."""
    firsts = {record.category: record.image for record in reversed(run.training_normals)}
    pixels = max(prod(image_size(run.path(image))) for image in firsts.values())
    return min(UNIT, max(1, UNIT_PIXELS // pixels))


def _identity(run: Run) -> Identity:
    settings = run.config.generate.gate
    identity = Identity(
        config_sha256=run.rendering_sha256(),
        model_sha256=run.model_sha256(),
        data_sha256=run.training_sha256(),
        run_seed=run.config.seed,
        version=__version__,
        defects=sorted({record.defect for record in run.dataset.defects if record.defect}),
    )
    if settings.enabled:
        identity["gate"] = gate_settings(settings)
    if notice := NOTICE if run.config.data.medical else notice_of(run.dataset):
        identity["notice"] = notice
    if run.halo:
        identity["halo"] = run.halo
    return identity


def _spread(items: Sequence[T], count: int) -> list[T]:
    """At most `count` of the items, evenly spaced: neighbours are often exposures of one piece."""
    picks = np.linspace(0, len(items) - 1, min(count, len(items))).round().astype(int)
    return [items[pick] for pick in picks]


def _stored(run: Run, line: Line) -> tuple[np.ndarray, np.ndarray]:
    return read_image(inside(run.store_folder, line["image"])), read_mask(inside(run.store_folder, line["mask"]))
