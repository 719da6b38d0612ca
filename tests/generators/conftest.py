"""Tiny data and trainings for the layout renderers: 32 px pictures, networks of some thousand parameters."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from generators.batches import CropSource
from generators.crn_stages import train_crn
from generators.layout_model import LayoutModel
from generators.layout_warp import NO_WARP
from generators.loop import LoopSettings
from generators.pairs import PairFiles, PairSource, Palette
from generators.pix2pixhd_stages import Design, train_pix2pixhd
from generators.stages import Stages

SETTINGS = {
    "batch_size": 2, "gradient_accumulation_steps": 1, "ema_decay": 0.9, "decay_share": 0.5, "save_every": 4,
    "sample_every": 1000, "seed": 0, "device": "cpu",
}  # fmt: skip
CRN_SETTINGS = {
    "widths": (16, 12, 8), "num_outputs": 3, "norm": "class_adaptive", "edges": False, "trunk": "random",
    "calibration_steps": 2, "warp": NO_WARP, "learning_rate": 1e-2, "diversity_mean_weight": (0.2, 0.01),
    "class_norm": "none",
}  # fmt: skip
DESIGN = {
    "generator": {"width": 8, "num_downsamples": 2, "num_blocks": 1, "num_enhancer_blocks": 1},
    "style": "encoder", "style_channels": 2, "encoder_width": 4, "encoder_downsamples": 2, "discriminator": "patch",
    "discriminator_width": 4, "num_scales": 1, "spectral_norm": False,
}  # fmt: skip
GAN_SETTINGS = {
    "num_centres": 3, "trunk": "random", "calibration_steps": 2, "warp": NO_WARP, "learning_rate": 2e-3,
    "discriminator_learning_rate": 2e-3, "perceptual_weight": 10.0, "freeze_steps": 3, "adversary": "lsgan",
    "feature_weight": 10.0, "label_mix_weight": 10.0, "noise_draws": 2, "smallest_instance": 0.0,
    "pool_size": 0,
}  # fmt: skip
COLOURS = {"wall": (40, 40, 200), "door": (200, 60, 40), "window": (60, 190, 90)}


def street(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Labels (32, 32) and a photo of them: two rectangles on a wall, every one bright or dark, with some grain."""
    labels, photo = np.zeros((32, 32), np.uint8), np.empty((32, 32, 3))
    photo[:] = COLOURS["wall"]
    for label, name in ((1, "door"), (2, "window")):
        top, left = rng.integers(0, 20, 2)
        box = np.s_[top : top + 12, left : left + 12]
        labels[box] = label
        photo[box] = np.array(COLOURS[name]) * rng.choice((0.3, 1.2))
    return labels, np.clip(photo + rng.normal(0, 4, photo.shape), 0, 255).astype(np.uint8)


@pytest.fixture(scope="session")
def pair_folder(tmp_path_factory) -> Path:
    """`photos` and `layouts` of 12 streets, colour-coded."""
    from fastsynth.files import atomic_write
    from fastsynth.images import encode_png

    folder, rng = tmp_path_factory.mktemp("pairs"), np.random.default_rng(0)
    palette = np.array(list(COLOURS.values()), np.uint8)
    for number in range(12):
        labels, photo = street(rng)
        atomic_write(folder / "photos" / f"{number}.png", encode_png(photo))
        atomic_write(folder / "layouts" / f"{number}.png", encode_png(palette[labels]))
    return folder


@pytest.fixture(scope="session")
def pairs(pair_folder) -> PairSource:
    files = [PairFiles(path, pair_folder / "layouts" / path.name, None) for path in pair_folder.glob("photos/*")]
    palette = Palette(COLOURS, ignore=None)
    return PairSource(sorted(files, key=str), palette, load_size=32, crop_size=32, flip=True, held_out=2, seed=0)


@pytest.fixture(scope="session")
def crops() -> CropSource:
    """Dark cracks and dents of three brightnesses on grey grain, and two normal crops."""
    rng = np.random.default_rng(0)
    pictures, masks = rng.integers(110, 140, (10, 3, 32, 32)).astype(np.uint8), np.zeros((10, 1, 32, 32), np.uint8)
    objects = np.ones_like(masks)
    objects[3:5, :, 28:] = 0
    classes = np.array([2, 3] * 4 + [0, 0])
    for picture, mask, label in zip(pictures, masks, classes, strict=True):
        top, left = rng.integers(4, 16, 2)
        mask[:, top : top + 10, left : left + (3 if label == 2 else 10)] = 1
        if label:
            picture[:, mask[0] > 0] = 20 if label == 2 else rng.choice((180, 215, 250))
    names = ("background", "object", "tile/crack", "tile/dent")
    return CropSource(pictures, masks, objects, classes, class_names=names, normal_share=0.2)


@pytest.fixture(scope="session")
def stages() -> Callable[..., Stages]:
    """Builds `Stages` below a folder; settings of the loop as keywords."""

    def build(source, output: Path, *, steps=(8,), log=lambda values: None, **changes) -> Stages:
        return Stages(
            source,
            output=output,
            steps=steps,
            settings=LoopSettings(**(SETTINGS | changes)),
            fills_holes=isinstance(source, CropSource),
            ignore=None,
            log=log,
        )

    return build


@pytest.fixture(scope="session")
def fit_crn(stages) -> Callable[..., LayoutModel]:
    """Trains a tiny CRN; settings of loop and training as keywords."""

    def fit(source, output: Path, *, steps=(8,), log=lambda values: None, **changes) -> LayoutModel:
        loop = {key: changes.pop(key) for key in SETTINGS if key in changes}
        return train_crn(stages(source, output, steps=steps, log=log, **loop), **(CRN_SETTINGS | changes))

    return fit


@pytest.fixture(scope="session")
def fit_pix2pixhd(stages) -> Callable[..., LayoutModel]:
    """Trains a tiny pix2pixHD; settings of loop, networks and training as keywords."""

    def fit(source, output: Path, *, steps=(8,), log=lambda values: None, **changes) -> LayoutModel:
        loop = {key: changes.pop(key) for key in SETTINGS if key in changes}
        design = Design(**(DESIGN | {key: changes.pop(key) for key in DESIGN if key in changes}))
        return train_pix2pixhd(stages(source, output, steps=steps, log=log, **loop), design, **(GAN_SETTINGS | changes))

    return fit


@pytest.fixture(scope="session")
def weights() -> Callable[[LayoutModel], dict[str, torch.Tensor]]:
    """All tensors of a model by name."""

    def read(model: LayoutModel) -> dict[str, torch.Tensor]:
        parts = {"generator": model.generator, "encoder": model.encoder, "bank": model.bank}
        return {
            f"{part}.{name}": value.clone()
            for part, module in parts.items()
            if module is not None
            for name, value in module.state_dict().items()
        }

    return read
