"""The reference renderers: copy-paste, CutPaste, DRAEM and NSA, all on the layouts that FAST draws.

The papers draw their own masks; here the layout's mask is the mask, so that only the filling is compared.
"""

from collections.abc import Callable, Sequence
from typing import Literal

import cv2
import numpy as np

from fastsynth.data.surfaces import draw_surface
from fastsynth.layouts.crop import Crop, ValueRange, crop_around, cut, paste
from fastsynth.layouts.exemplar import ExemplarBank, instance_mask, like_channels
from fastsynth.types import Instance, Layout, Sample, instance_seed
from generators.poisson import poisson_blend

PLACES = 16
"""Patches of which NSA takes the boldest: on calm grain one taken blindly brings nothing that can be seen."""
GREY = 4 / 255
"""Two of 255 levels, in [-1, 1]: channels that differ by less show no colour."""
Fill = Callable[[Layout, Instance, Crop, int], np.ndarray]
"""(layout, instance, crop, seed) → (side, side, C) float in [-1, 1], of which the part inside the mask is used."""


class ReferenceRenderer:
    """Fills every instance's mask by `fill`. Needs no training and no denoiser.

    name: recorded in the manifest. context: side of a crop as a multiple of the defect's longer side.
    """

    def __init__(self, name: str, fill: Fill, *, context: float) -> None:
        self.name, self.fill, self.context = name, fill, context

    def render(self, layouts: Sequence[Layout], seeds: Sequence[int]) -> list[Sample]:
        """One sample per layout; outside its instances' masks the image is the background, bit for bit."""
        return [self._sample(layout, seed) for layout, seed in zip(layouts, seeds, strict=True)]

    def _sample(self, layout: Layout, seed: int) -> Sample:
        image = layout.background.copy()
        values = ValueRange.of(layout.background)
        for instance in layout.instances:
            crop = crop_around(instance.bbox, image_size=layout.size, context=self.context)
            drawn = self.fill(layout, instance, crop, instance_seed(instance, seed, renderer=self.name))
            paste(image, drawn, crop, instance_mask(instance, crop), values=values)
        return Sample(image, layout.foreground.astype(np.uint8) * 255, layout, seed, self.name)


def copy_paste(exemplars: ExemplarBank, *, blend: Literal["light", "poisson"]) -> Fill:
    """A real training defect, warped to the mask; its light or its gradients fitted to the new surroundings."""

    def fill(layout: Layout, instance: Instance, crop: Crop, seed: int) -> np.ndarray:
        if blend == "light":
            return exemplars.warped_into(layout.background, instance, crop, category=layout.category, seed=seed)
        inside = instance_mask(instance, crop)
        defect = exemplars.warped(instance, crop, inside, category=layout.category, seed=seed)
        clean = _clean(layout, crop)
        return poisson_blend(clean, like_channels(defect, clean.shape[2]), inside, mixed=False)

    return fill


def cutpaste(*, jitter: float) -> Fill:
    """Another place of the same image, brightness and contrast changed by up to `jitter` (CutPaste, section 2.1)."""

    def fill(layout: Layout, instance: Instance, crop: Crop, seed: int) -> np.ndarray:
        rng = np.random.default_rng(seed)
        values = ValueRange.of(layout.background)
        elsewhere = values.to_float(cut(layout.background, _anywhere(layout.size, crop.side, rng)))
        middle = elsewhere.mean()
        contrast, brightness = 1 + rng.uniform(-jitter, jitter, 2)
        jittered: np.ndarray = (middle + 1) * brightness - 1 + contrast * (elsewhere - middle)
        return jittered

    return fill


def draem(*, opacity: tuple[float, float]) -> Fill:
    """(1 - β) · surface + β · foreign texture, β drawn evenly from `opacity` (DRAEM, eq. 1).

    Textures are the generated surfaces of `fastsynth.data.surfaces`, in place of the paper's photographs; grey where
    the background is grey, since such a device sees no colours.
    """

    def fill(layout: Layout, instance: Instance, crop: Crop, seed: int) -> np.ndarray:
        rng = np.random.default_rng(seed)
        texture = ValueRange(0, 255).to_float(draw_surface((crop.side, crop.side), rng=rng))
        share = rng.uniform(*opacity)
        clean = _clean(layout, crop)
        if np.ptp(clean, axis=2).max() < GREY:
            texture = texture.mean(axis=2, keepdims=True)
        blended: np.ndarray = (1 - share) * clean + share * like_channels(texture, clean.shape[2])
        return blended

    return fill


def nsa(normals: Callable[[str, np.random.Generator], np.ndarray], *, scale: tuple[float, float]) -> Fill:
    """A rescaled patch of another normal image, Poisson-blended with mixed gradients (NSA, section 3).

    The paper leaves out patches that change nothing to speak of; here of `PLACES` in the other image the one is taken
    whose gradients stand out most from the background's. normals: (category, rng) → a normal image, (H, W, C) uint8
    or uint16.
    """

    def fill(layout: Layout, instance: Instance, crop: Crop, seed: int) -> np.ndarray:
        rng = np.random.default_rng(seed)
        other = normals(layout.category, rng)
        values, side = ValueRange.of(other), max(8, round(crop.side / rng.uniform(*scale)))
        clean, inside = _clean(layout, crop), instance_mask(instance, crop)

        def patch() -> np.ndarray:
            found = values.to_float(cut(other, _anywhere(other.shape[:2], side, rng)))
            enlarged = cv2.resize(found, (crop.side, crop.side), interpolation=cv2.INTER_LINEAR)
            return like_channels(enlarged.reshape(crop.side, crop.side, -1), clean.shape[2])

        boldest = max((patch() for _ in range(PLACES)), key=lambda found: _excess(found, clean, inside))
        return poisson_blend(clean, boldest, inside, mixed=True)

    return fill


def _excess(patch: np.ndarray, background: np.ndarray, inside: np.ndarray) -> float:
    """By how much the patch's differences between neighbours exceed the background's, summed over the pixels inside.

    patch, background: (H, W, C) float. inside: (H, W) bool. Only such gradients survive mixed blending.
    """
    steps = ((np.abs(np.diff(picture, axis=axis)) for picture in (patch, background)) for axis in (0, 1))
    down, across = (np.maximum(wanted - found, 0).sum(axis=2) for wanted, found in steps)
    return float(down[inside[:-1]].sum() + across[inside[:, :-1]].sum())


def _clean(layout: Layout, crop: Crop) -> np.ndarray:
    return ValueRange.of(layout.background).to_float(cut(layout.background, crop))


def _anywhere(size: tuple[int, int], side: int, rng: np.random.Generator) -> Crop:
    """A crop anywhere inside an image of `size`, or centred where it does not fit."""

    def start(length: int) -> int:
        return int(rng.integers(length - side + 1)) if length >= side else (length - side) // 2

    return Crop(left=start(size[1]), top=start(size[0]), side=side)
