"""Settings of the augmentation stage. No torch: albumentations imports it, so they stand apart from `augment.py`."""

from pathlib import Path
from typing import Any

from pydantic import model_validator

from fastsynth.config import Config


class AugmentConfig(Config):
    """Which albumentations pipeline a segmenter is trained with. Neither key: the default training pipeline."""

    transforms: list[dict[str, Any]] | None = None
    """One mapping per transform: `{name: HorizontalFlip, p: 0.5}`; other keys are the transform's own arguments,
    `transforms` inside `OneOf` and the like nests. An empty list switches augmentation off."""

    pipeline: Path | None = None
    """A pipeline saved by albumentations (`A.save`), .json, .yaml or .yml."""

    @model_validator(mode="after")
    def _one_source(self) -> "AugmentConfig":
        if self.transforms is not None and self.pipeline is not None:
            raise ValueError("transforms and pipeline are both given; keep one of them")
        return self
