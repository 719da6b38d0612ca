"""The views of a run that a learnt renderer is trained on, drawn when they are asked for."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from fastsynth.diffusion.config import FASTConfig
from fastsynth.diffusion.views import View, defect_views, normal_views
from fastsynth.run import Run
from generators.layout_config import CRNConfig, Pix2PixHDConfig

HELD_OUT_VIEWS = 48
"""Views of the validation defects that tell when to stop."""


class Drawn(NamedTuple):
    """Views to iterate over once, and about how many there are."""

    views: Iterator[View]
    total: int


def training_views(run: Run, settings: FASTConfig | CRNConfig | Pix2PixHDConfig) -> dict[str, Drawn]:
    """Keys: defects; normals, under borrowed masks; held_out, validation defects, where the split has any."""
    exemplars, normals, training = run.exemplars("train"), run.training_normals, settings.training

    def read_normal(index: int) -> tuple[np.ndarray, str]:
        return run.read(normals[index])[0], normals[index].category

    def crops(count: int, stream: int) -> dict[str, Any]:
        rng = np.random.default_rng((run.config.seed, stream))
        return {"count": count, "size": settings.crop_size, "context": settings.context, "poses": run.poses, "rng": rng}

    defects = defect_views(exemplars, **crops(training.defect_crops, 1))
    sound = normal_views(read_normal, len(normals), exemplars, **crops(training.normal_crops, 2))
    views = {"defects": Drawn(defects, training.defect_crops), "normals": Drawn(sound, training.normal_crops)}
    if held_out := run.exemplars("val"):
        views["held_out"] = Drawn(defect_views(held_out, **crops(HELD_OUT_VIEWS, 3)), HELD_OUT_VIEWS)
    return views
