"""Pretrains the base of FAST: python -m fastsynth.diffusion.pretrain_base configs/base_pretrain.yaml

UNet, FARM and one token row per kind of defect learn to fill masks on generated surfaces and the free pictures inside
scikit-image: grooves, pits, dents, stains, missing, shifted and foreign structure, and plain texture. The loop is the
one that users' own data go through. Resumable: the same command continues from the last checkpoint, and a larger
`training.max_train_steps` needs a new output.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field

from fastsynth.config import Config, load_config
from fastsynth.data.surfaces import draw_surface, free_pictures
from fastsynth.diffusion.building import new_pipeline
from fastsynth.diffusion.bundle import save_base
from fastsynth.diffusion.conditioning import NORMAL
from fastsynth.diffusion.config import BaseConfig, FASTTrainingConfig
from fastsynth.diffusion.defects import KINDS, draw_defect, draw_foreground
from fastsynth.diffusion.training import train_fast
from fastsynth.diffusion.views import EncodedViews, View, encode_views, view_of
from fastsynth.files import write_json
from fastsynth.layouts.crop import Crop, cut
from fastsynth.layouts.exemplar import Exemplar
from fastsynth.layouts.parts import RealMask, split_parts
from fastsynth.layouts.poses import ALL_POSES

CATEGORY = "surface"
SURFACE_SIZE = 192
FREE_SHARE = 0.25
VIEWS_PER_SURFACE = 3
CONTEXT = 2.0


class BasePretrainConfig(Config):
    output: Path
    """Folder for the encoded views, checkpoints and the finished model."""
    seed: int = 0
    base: BaseConfig = BaseConfig(pretrained=None)
    crop_size: Annotated[int, Field(ge=32, multiple_of=32)] = 128
    training: FASTTrainingConfig = FASTTrainingConfig()
    """`defect_crops` and `normal_crops` are views of generated defects and of sound surfaces."""


def base_views(*, count: int, size: int, sound: bool, rng: np.random.Generator) -> Iterator[View]:
    """`count` views of generated defects, all kinds alike; with `sound`, of masks over untouched surfaces."""
    pictures, kinds = free_pictures(), list(KINDS)
    surface = _surface(pictures, rng)
    for number in range(count):
        if number % VIEWS_PER_SURFACE == 0:
            surface = _surface(pictures, rng)
        kind = kinds[number % len(kinds)]
        foreground = draw_foreground(kind, surface.shape[:2], rng=rng)
        image = surface if sound else draw_defect(kind, surface, foreground, rng=rng)
        exemplar = Exemplar(image, foreground, CATEGORY, NORMAL if sound else kind, source="")
        parts = split_parts(RealMask("", kind, foreground))
        part = parts[rng.integers(len(parts))]
        height, width = part.foreground.shape
        bbox = (part.left, part.top, part.left + width, part.top + height)
        yield view_of(exemplar, bbox, size=size, context=CONTEXT, poses=ALL_POSES, rng=rng)


def pretrain(config: BasePretrainConfig) -> Path:
    """Train, or continue, below `config.output`; returns the folder of the saved pipeline, beside which lies `bundle`.

    The bundle is what ships, and what `base.pretrained` takes.
    """
    training = config.training
    pipeline = new_pipeline(
        [(CATEGORY, kind) for kind in KINDS],
        autoencoder=config.base.autoencoder,
        pretrained=config.base.pretrained,
        fresh=config.base.fresh,
        size=config.crop_size,
        kernel="exact",
        spacing="logsnr",
        solver_order=2,
        seed=config.seed,
    )
    encoded = []
    for stream, (name, count) in enumerate({"defects": training.defect_crops, "sound": training.normal_crops}.items()):
        path = config.output / f"{name}.safetensors"
        if not path.is_file():
            rng = np.random.default_rng((config.seed, stream))
            views = base_views(count=count, size=config.crop_size, sound=name == "sound", rng=rng)
            encode_views(views, pipeline, total=count).save(path)
        encoded.append(EncodedViews.load(path))
    result = train_fast(
        pipeline,
        *encoded,
        output=config.output,
        seed=config.seed,
        log=lambda values: None,
        **training.model_dump(exclude={"defect_crops", "normal_crops"}),
    )
    save_base(pipeline, config.output / "bundle")
    folder = config.output / "model"
    pipeline.save_pretrained(folder)
    write_json(folder / "training.json", {"steps": training.max_train_steps, "minutes": round(result.seconds / 60, 1)})
    return folder


def _surface(pictures: list[np.ndarray], rng: np.random.Generator) -> np.ndarray:
    """(SURFACE_SIZE, SURFACE_SIZE, 3) uint8: generated, or a piece of a free picture."""
    if rng.random() >= FREE_SHARE:
        return draw_surface((SURFACE_SIZE, SURFACE_SIZE), rng=rng)
    picture = pictures[rng.integers(len(pictures))]
    top, left = (int(rng.integers(max(1, length - SURFACE_SIZE + 1))) for length in picture.shape[:2])
    piece = cut(picture, Crop(left=left, top=top, side=SURFACE_SIZE))
    return np.repeat(piece.mean(2, keepdims=True), 3, axis=2).astype(np.uint8) if rng.random() < 0.5 else piece


if __name__ == "__main__":
    print(pretrain(load_config(BasePretrainConfig, Path(sys.argv[1]), sys.argv[2:])))
