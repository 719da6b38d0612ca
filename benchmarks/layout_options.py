"""What the options of pix2pixHD do: PYTHONPATH=tests python benchmarks/layout_options.py [steps]

The toy set of the style tests (32 pixels, defects in three colours each), three trainings per option, all else equal.
On layouts that were not trained on: how much of each defect has a colour of its class (IoU by nearest colour, an exact
segmenter there), in how many of its three colours nine seeds draw it, and the mean difference to the photo. Of all
shapes in the same layouts with rough borders: IoU with the clean shapes, which are all that photos show, and what the
rough layouts themselves have. What differs by less than the
trainings of one option do does not differ. Writes benchmarks/results/layout_options.json after each training, with the
commit of each; what is in there is not trained again.
"""

import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from record import RESULTS, record
from toy_surfaces import COLOURS, DEFECTS, ToySource, draw_toy, nearest_class

from fastsynth.environment import environment
from fastsynth.files import read_json
from fastsynth.quality.truthfulness import overlap
from generators.batches import components_of
from generators.layout_model import LayoutModel
from generators.layout_warp import NO_WARP, Warp, warp_layout
from generators.loop import LoopSettings
from generators.pix2pixhd_stages import Design, train_pix2pixhd
from generators.stages import Stages

ADVERSARY_ALONE = {"style": "noise", "perceptual_weight": 0.0}
SEGMENTER = ADVERSARY_ALONE | {"discriminator": "segmenter"}
OPTIONS: dict[str, dict[str, Any]] = {
    "default": {},
    "norm: instance, as published": {"norm": "instance"},
    "warp_amplitude: 1, warp_wavelength: 3": {"warp": Warp(1.0, 3.0)},
    "style: none": {"style": "none"},
    "style: noise": {"style": "noise"},
    "style: noise, noise_draws: 1": {"style": "noise", "noise_draws": 1},
    "without perceptual loss, style: noise": ADVERSARY_ALONE,
    "without perceptual loss, style: noise, discriminator: segmenter": SEGMENTER,
    "the same, without LabelMix": SEGMENTER | {"label_mix_weight": 0.0},
}
PICTURES, SHOWN, LOOKS = 200, 20, 9
TRAININGS = (0, 1, 2)
"""Seeds of the trainings."""
ROUGH = Warp(1.5, 3.0)
"""What makes a layout one drawn by a shaky hand."""
BETWEEN = 40.0
"""Distance in RGB within which a mean colour is one of the class; its colours lie further apart than twice that."""


def train(
    steps: int,
    seed: int,
    *,
    norm: str,
    discriminator: str,
    style: str,
    warp: Warp,
    label_mix_weight: float,
    perceptual_weight: float,
    noise_draws: int,
) -> LayoutModel:
    with tempfile.TemporaryDirectory() as folder:
        stages = Stages(
            ToySource(PICTURES),
            output=Path(folder),
            steps=(steps,),
            settings=LoopSettings(
                batch_size=4,
                gradient_accumulation_steps=1,
                ema_decay=0.98,
                decay_share=0.5,
                save_every=steps,
                sample_every=steps,
                seed=seed,
                device="cpu",
            ),
            fills_holes=False,
            ignore=None,
            log=lambda values: None,
        )
        design = Design(
            generator={"width": 8, "num_downsamples": 2, "num_blocks": 2, "num_enhancer_blocks": 1, "norm": norm},
            style=style,  # type: ignore[arg-type]
            style_channels=3,
            encoder_width=8,
            encoder_downsamples=2,
            discriminator=discriminator,  # type: ignore[arg-type]
            discriminator_width=8,
            num_scales=2,
            spectral_norm=False,
        )
        return train_pix2pixhd(
            stages,
            design,
            num_centres=3,
            trunk="random",
            calibration_steps=50,
            warp=warp,
            learning_rate=2e-3,
            discriminator_learning_rate=2e-3,
            perceptual_weight=perceptual_weight,
            freeze_steps=0,
            adversary="lsgan",
            feature_weight=10.0,
            label_mix_weight=label_mix_weight,
            noise_draws=noise_draws,
            pool_size=0,
        )


def judge(model: LayoutModel) -> dict[str, float]:
    ious, colours, errors = [], [], []
    clean: list[float] = []
    given: list[float] = []
    for number in range(SHOWN):
        labels, photo, _ = draw_toy(np.random.default_rng((9, number)))
        maps = [torch.from_numpy(ids.astype(np.int64)) for ids in (labels, components_of(labels))]
        rough = [
            each[0]
            for each in warp_layout(
                *(each[None] for each in maps), ROUGH, generator=torch.Generator().manual_seed(number)
            )
        ]
        looks = [(model.draw(*maps, seed=seed).movedim(0, -1).numpy() + 1) * 127.5 for seed in range(LOOKS)]
        drawn = (model.draw(*rough, seed=0).movedim(0, -1).numpy() + 1) * 127.5
        errors.append(np.abs(looks[0] - photo).mean() / 255)
        for label in np.unique(labels[labels > 0]):
            clean.append(overlap(nearest_class(drawn) == label, labels == label))
            given.append(overlap(rough[0].numpy() == label, labels == label))
        for label in DEFECTS:
            region = labels == label
            if region.any():
                ious += [overlap(nearest_class(look) == label, region) for look in looks]
                distances = [np.linalg.norm(COLOURS[label] - look[region].mean(axis=0), axis=1) for look in looks]
                colours.append(len({int(d.argmin()) for d in distances if d.min() < BETWEEN}))
    found = {"defect_iou": ious, "clean_iou": clean, "rough_iou": given, "colours": colours, "l1": errors}
    return {name: float(np.mean(values)) for name, values in found.items()}


def main(steps: int) -> None:
    torch.set_num_threads(1)
    os.environ["ACCELERATE_MIXED_PRECISION"] = "no"  # the same on every machine
    common = {
        "norm": "class_adaptive", "discriminator": "patch", "style": "encoder", "warp": NO_WARP,
        "label_mix_weight": 10.0, "perceptual_weight": 10.0, "noise_draws": 6,
    }  # fmt: skip
    rows, commit = finished(steps), environment()["commit"]
    for name, changes in OPTIONS.items():
        for seed in TRAININGS:
            if any((row["option"], row["seed"]) == (name, seed) for row in rows):
                continue
            started = time.perf_counter()
            model = train(steps, seed, **{**common, **changes})
            minutes = (time.perf_counter() - started) / 60
            found = {**judge(model), "train_minutes": minutes, "commit": commit}
            print(name, seed, found, flush=True)
            rows.append({"option": name, "seed": seed, **found})
            rows.sort(key=lambda row: (list(OPTIONS).index(row["option"]), row["seed"]))
            record("layout_options", {"steps": steps, "pictures": PICTURES, "rows": rows})


def finished(steps: int) -> list[dict[str, Any]]:
    """Rows of earlier calls with as many steps."""
    path = RESULTS / "layout_options.json"
    result = read_json(path) if path.is_file() else {"steps": None}
    return list(result["rows"]) if result["steps"] == steps else []


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1200)
