"""CRN and pix2pixHD as renderers of a run: each instance is drawn into a hole of its crop of the background."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from fastsynth.layouts.crop import (
    ValueRange,
    add_change,
    crop_around,
    cut,
    cut_mask,
    mask_to_model,
    paste,
    to_model,
)
from fastsynth.layouts.exemplar import instance_mask
from fastsynth.layouts.parts import tight_box
from fastsynth.layouts.placement import object_region
from fastsynth.layouts.poses import Poses
from fastsynth.types import CentreStyle, Instance, Layout, ReferenceStyle, Sample, instance_seed, sample_seed
from generators.batches import components_of
from generators.encoding import surroundings
from generators.layout_model import LayoutModel
from generators.surface import surface_detail, surface_gain, times

References = Callable[[ReferenceStyle], tuple[np.ndarray, np.ndarray]]
"""A style → the picture it names, (H, W, C) uint8 or uint16, and where in it the instance is, (H, W) bool."""


class LayoutRenderer:
    """Draws instances one at a time, so that a sample's bytes depend on its layout and seed alone.

    model: fills holes; its classes are `class_name(category, defect)`. size: of its square input.
    context: side of a crop as a multiple of the defect's longer side. feather: pixels of fading inside the border.
    references: finds the pictures that styles refer to. poses: in which the model has seen defects.

    A seed chooses among the model's looks, and in which pose the crop is drawn: each gives another picture. A bank
    centre or a reference changes the look alone, where the model has a style encoder; one without knows seeds only.
    """

    def __init__(
        self,
        model: LayoutModel,
        *,
        size: int,
        context: float,
        feather: float,
        references: References,
        poses: Poses,
    ) -> None:
        self.name: str = model.kind
        self.model, self.size, self.context, self.feather = model, size, context, feather
        self.references, self.poses = references, poses

    def render(self, layouts: Sequence[Layout], seeds: Sequence[int]) -> list[Sample]:
        """One sample per layout; outside its instances' masks the image is the background, bit for bit."""
        return [self._sample(layout, seed) for layout, seed in zip(layouts, seeds, strict=True)]

    def _sample(self, layout: Layout, seed: int) -> Sample:
        image = layout.background.copy()
        values, region = ValueRange.of(layout.background), object_region(layout.background)
        for instance in layout.instances:
            crop = crop_around(instance.bbox, image_size=layout.size, context=self.context)
            inside = instance_mask(instance, crop)
            native = cut(layout.background, crop)
            clean = to_model(native, size=self.size, values=values)
            hole = mask_to_model(inside, size=self.size)
            on_object = mask_to_model(cut_mask(region, crop), size=self.size)
            change = self._drawn(clean, hole, on_object, layout, instance, seed) - clean
            drawn = add_change(values.to_float(native), change, inside, feather=self.feather)
            paste(image, drawn, crop, inside, values=values)
        return Sample(image, layout.foreground.astype(np.uint8) * 255, layout, seed, self.name)

    def _drawn(
        self,
        clean: np.ndarray,
        hole: np.ndarray,
        on_object: np.ndarray,
        layout: Layout,
        instance: Instance,
        seed: int,
    ) -> np.ndarray:
        """(3, S, S) float32. clean: (3, S, S) in [-1, 1]. hole, on_object: (1, S, S) of 0 and 1; seed: the sample's."""
        label = self.model.class_id(class_name(layout.category, instance.defect))
        seed, style = self._look(instance, label, seed)
        pose = self.poses.drawn(np.random.default_rng(seed))
        clean, hole, on_object = (np.ascontiguousarray(pose.of(array)) for array in (clean, hole, on_object))
        picture, opening = torch.from_numpy(clean)[None], torch.from_numpy(hole)[None]
        gain = surface_gain(picture, opening)
        parts = components_of(hole[0].astype(np.uint8))
        drawn = self.model.draw(
            torch.from_numpy(np.where(hole[0] > 0, label, on_object[0]).astype(np.int64)),
            torch.from_numpy(parts),
            seed=seed,
            context=surroundings(times(picture, gain), opening)[0],
            styles=None if style is None else dict.fromkeys(np.unique(parts[hole[0] > 0]).tolist(), style),
        )
        detailed = times(drawn, surface_detail(picture, opening)[0])
        toned = self.model.tone_of(label).of(detailed, opening[0, 0] > 0)
        return pose.undone(times(toned, 1 / gain[0]).numpy())

    def _look(self, instance: Instance, label: int, seed: int) -> tuple[int, Tensor | None]:
        """The seed of an instance's look and position, and the style of all its parts, (D,), if there are styles."""
        match instance.style:
            case CentreStyle(centre) if self.model.encoder is not None:
                return sample_seed(seed, instance.id), self.model.centre_style(label, centre)
            case ReferenceStyle() as style if self.model.encoder is not None:
                return sample_seed(seed, instance.id), self._seen(*self.references(style))
            case _:
                own = instance_seed(instance, seed, renderer=self.name)
                return own, self.model.seed_style(label, own) if self.model.styled else None

    def _seen(self, image: np.ndarray, foreground: np.ndarray) -> Tensor:
        """(D,), how what lies in the foreground looks, in a crop like those of the training."""
        crop = crop_around(tight_box(foreground), image_size=foreground.shape, context=self.context)
        picture = torch.from_numpy(to_model(cut(image, crop), size=self.size, values=ValueRange.of(image)))[None]
        inside = torch.from_numpy(mask_to_model(cut_mask(foreground, crop), size=self.size))[None]
        return self.model.encode_style(times(picture, surface_gain(picture, inside))[0], inside[0, 0] > 0)


def class_name(category: str, defect: str) -> str:
    """Of a defect type among a renderer's classes."""
    return f"{category}/{defect}"
