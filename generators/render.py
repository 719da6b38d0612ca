"""CRN and pix2pixHD as renderers of a run: each instance is drawn into a hole of its crop of the background."""

from collections.abc import Sequence

import numpy as np
import torch

from fastsynth.layouts.crop import ValueRange, add_change, crop_around, cut, mask_to_model, paste, to_model
from fastsynth.layouts.exemplar import instance_mask
from fastsynth.types import Instance, Layout, Sample, sample_seed
from generators.batches import components_of
from generators.encoding import surroundings
from generators.layout_model import LayoutModel


class LayoutRenderer:
    """Draws instances one at a time, so that a sample's bytes depend on its layout and seed alone.

    model: fills holes; its classes are `class_name(category, defect)`. size: of its square input.
    context: side of a crop as a multiple of the defect's longer side. feather: pixels of fading inside the border.

    A seed chooses among the model's looks, and how the crop is turned and mirrored while it is drawn: the networks
    are trained on all eight positions, and each gives another picture.
    """

    def __init__(self, model: LayoutModel, *, size: int, context: float, feather: float) -> None:
        self.name: str = model.kind
        self.model, self.size, self.context, self.feather = model, size, context, feather

    def render(self, layouts: Sequence[Layout], seeds: Sequence[int]) -> list[Sample]:
        """One sample per layout; outside its instances' masks the image is the background, bit for bit."""
        return [self._sample(layout, seed) for layout, seed in zip(layouts, seeds, strict=True)]

    def _sample(self, layout: Layout, seed: int) -> Sample:
        image = layout.background.copy()
        values = ValueRange.of(layout.background)
        for instance in layout.instances:
            crop = crop_around(instance.bbox, image_size=layout.size, context=self.context)
            inside = instance_mask(instance, crop, layout.size)
            native = cut(layout.background, crop)
            clean = to_model(native, size=self.size, values=values)
            hole = mask_to_model(inside, size=self.size)
            change = self._drawn(clean, hole, layout, instance, seed=sample_seed(seed, instance.id)) - clean
            drawn = add_change(values.to_float(native), change, inside, feather=self.feather)
            paste(image, drawn, crop, inside, values=values)
        return Sample(image, layout.foreground.astype(np.uint8) * 255, layout, seed, self.name)

    def _drawn(
        self, clean: np.ndarray, hole: np.ndarray, layout: Layout, instance: Instance, *, seed: int
    ) -> np.ndarray:
        """(3, S, S) float32. clean: (3, S, S) in [-1, 1]. hole: (1, S, S) of 0 and 1."""
        label = self.model.class_id(class_name(layout.category, instance.defect))
        rng = np.random.default_rng(seed)
        turns, mirrored = int(rng.integers(4)), bool(rng.integers(2))
        clean, hole = (_turned(array, turns, mirrored) for array in (clean, hole))
        picture, opening = torch.from_numpy(clean)[None], torch.from_numpy(hole)[None]
        drawn = self.model.draw(
            torch.from_numpy(hole[0].astype(np.int64) * label),
            torch.from_numpy(components_of(hole[0].astype(np.uint8))),
            seed=seed,
            context=surroundings(picture, opening)[0],
        ).numpy()
        drawn = drawn[:, :, ::-1] if mirrored else drawn
        return np.rot90(drawn, -turns, axes=(1, 2))


def class_name(category: str, defect: str) -> str:
    """Of a defect type among a renderer's classes."""
    return f"{category}/{defect}"


def _turned(array: np.ndarray, turns: int, mirrored: bool) -> np.ndarray:
    """(C, S, S), turned by quarters, then mirrored."""
    turned = np.rot90(array, turns, axes=(1, 2))
    return np.ascontiguousarray(turned[:, :, ::-1] if mirrored else turned)
