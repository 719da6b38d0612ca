"""CRN and pix2pixHD from settings to trained models: in a run's folder on its defects, or on photos and layouts."""

import itertools
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import assert_never

import numpy as np
from diffusers.utils.logging import disable_progress_bar
from tqdm import tqdm

from fastsynth.checkpoints import disk_errors
from fastsynth.environment import reset_peak_memory, stage_peak_mb
from fastsynth.files import write_json
from fastsynth.layouts.parts import RealMask, split_parts
from fastsynth.parallel import wait_for_all
from fastsynth.processes import process_index
from fastsynth.recipes.fast import device_of
from fastsynth.recipes.trained import made_from, write_trained
from fastsynth.recipes.views import training_views
from fastsynth.run import TRAINED_FROM, Run
from fastsynth.types import ReferenceStyle
from generators.batches import CropSource, Source
from generators.crn_stages import train_crn
from generators.encoding import HOLE_CLASSES
from generators.layout_config import (
    CRNConfig,
    CRNPhotoConfig,
    Pix2PixHDConfig,
    Pix2PixHDNetworkConfig,
    Pix2PixHDPhotoConfig,
    Pix2PixHDTrainingConfig,
)
from generators.layout_model import LayoutModel
from generators.layout_warp import NO_WARP, Warp
from generators.loop import Log, LoopSettings
from generators.pix2pixhd_stages import Design, train_pix2pixhd
from generators.render import LayoutRenderer, class_name
from generators.stages import Stages
from generators.tone_fitting import fit_tones

LOOP_KEYS = {"batch_size", "gradient_accumulation_steps", "ema_decay", "decay_share", "save_every", "sample_every"}
DESIGN_KEYS = {"discriminator", "discriminator_width", "num_scales", "spectral_norm"}
BANK_KEYS = {"num_centres", "smallest_instance"}
STYLE_KEYS = {"style", "style_channels", "encoder_width", "encoder_downsamples"}
SOURCE_KEYS = {"defect_crops", "normal_crops", "normal_share"}


def train(run: Run, settings: CRNConfig | Pix2PixHDConfig) -> None:
    """Train on crops around the training defects, and of normals, into `run.model_folder`."""
    with run.stage("train"), disk_errors(run.folder):
        write_json(run.model_folder / TRAINED_FROM, run.training_settings())
        device = device_of(run)
        reset_peak_memory()
        model, seconds = train_layout_model(
            settings,
            crop_source(run, settings),
            output=run.training_folder / "checkpoints",
            seed=run.config.seed,
            made_from=made_from(run),
            device=device.type,
            log=lambda values: run.log({"stage": "train", **values}),
        )
        if process_index() == 0:
            model.save_pretrained(run.model_folder)
            cost = {"minutes": round(seconds / 60, 2), "peak_memory_mb": round(stage_peak_mb(), 1)}
            write_trained(run.model_folder, {"steps": settings.training.max_train_steps, **cost})
        wait_for_all(cpu=device.type == "cpu")


def load(run: Run, settings: CRNConfig | Pix2PixHDConfig) -> LayoutRenderer:
    """The trained renderer."""
    disable_progress_bar()
    model = LayoutModel.from_pretrained(run.model_folder, device=device_of(run))
    return LayoutRenderer(
        model,
        size=settings.crop_size,
        context=settings.context,
        feather=settings.feather,
        references=partial(find_reference, run),
        poses=run.poses,
    )


def find_reference(run: Run, style: ReferenceStyle) -> tuple[np.ndarray, np.ndarray]:
    """The picture (H, W, C) that a style names, and its instance in it, (H, W) bool.

    Raises ValueError when it is no training defect of the run, or has no such instance.
    """
    records = {record.image: record for record in run.training_defects()}
    if style.image not in records:
        raise ValueError(
            f"{style.image} is not among the training defects of this run; take a look from one of them, "
            f"like {next(iter(records))}"
        )
    record = records[style.image]
    image, foreground = run.read_with_halo(record)
    parts = split_parts(RealMask(str(record.mask), str(record.defect), foreground))
    if not 1 <= style.instance <= len(parts):
        raise ValueError(f"{style.image} has no instance {style.instance}; its {len(parts)} count from 1")
    part, inside = parts[style.instance - 1], np.zeros_like(foreground)
    height, width = part.foreground.shape
    inside[part.top : part.top + height, part.left : part.left + width] = part.foreground
    return image, inside


def crop_source(run: Run, settings: CRNConfig | Pix2PixHDConfig) -> CropSource:
    """Crops around all training defects, and of normals under borrowed masks. They are drawn anew when resumed."""
    drawn = training_views(run, settings)
    views = itertools.chain(drawn["defects"].views, drawn["normals"].views)
    total = drawn["defects"].total + drawn["normals"].total
    pairs = run.defect_pairs
    names = (*HOLE_CLASSES, *(class_name(*pair) for pair in pairs))
    numbers = {name: number for number, name in enumerate(names)}
    pictures, masks, objects, classes = [], [], [], []
    for view in tqdm(views, total=total, desc="crops", leave=False):
        pictures.append(np.rint((view.picture + 1) * 127.5).clip(0, 255).astype(np.uint8))
        masks.append(view.mask_image.astype(np.uint8))
        objects.append(view.object_image.astype(np.uint8))
        classes.append(numbers.get(class_name(view.category, view.defect), 0))
    return CropSource(
        np.stack(pictures),
        np.stack(masks),
        np.stack(objects),
        np.array(classes),
        class_names=names,
        normal_share=settings.training.normal_share,
    )


def train_layout_model(
    settings: CRNConfig | Pix2PixHDConfig | CRNPhotoConfig | Pix2PixHDPhotoConfig,
    source: Source,
    *,
    output: Path,
    seed: int,
    made_from: str,
    device: str,
    log: Log,
    ignore: int | None = None,
    warp: Warp = NO_WARP,
) -> tuple[LayoutModel, float]:
    """Train, or go on with it, below `output`; the model, and the seconds that its training took.

    made_from: hash of settings and data; raises ValueError when what is below `output` was made from others.
    """
    training = settings.training
    stages = Stages(
        source,
        output=output,
        steps=training.stage_steps,
        settings=LoopSettings(**training.model_dump(include=LOOP_KEYS), seed=seed, device=device, made_from=made_from),
        fills_holes=isinstance(source, CropSource),
        ignore=ignore,
        log=log,
    )
    rest = training.model_dump(exclude=LOOP_KEYS | SOURCE_KEYS | DESIGN_KEYS | {"stage_steps"})
    match settings:
        case CRNConfig() | CRNPhotoConfig():
            model = train_crn(stages, **settings.network.model_dump(), **rest, warp=warp)
        case Pix2PixHDConfig() | Pix2PixHDPhotoConfig():
            design = _design(settings.network, settings.training)
            model = train_pix2pixhd(stages, design, **settings.network.model_dump(include=BANK_KEYS), **rest, warp=warp)
        case _:
            assert_never(settings)
    if isinstance(source, CropSource):
        model = replace(model, tones=fit_tones(model, source))
    return model, stages.seconds


def _design(network: Pix2PixHDNetworkConfig, training: Pix2PixHDTrainingConfig) -> Design:
    return Design(
        generator=network.model_dump(exclude=STYLE_KEYS | BANK_KEYS),
        **network.model_dump(include=STYLE_KEYS),
        **training.model_dump(include=DESIGN_KEYS),
    )
