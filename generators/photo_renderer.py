"""CRN and pix2pixHD as renderers of whole pictures: a layout's instances are all there is, the background too."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from fastsynth.images import to_uint8
from fastsynth.types import CentreStyle, Instance, Layout, ReferenceStyle, Sample, SeedStyle
from generators.layout_model import LayoutModel
from generators.sample_sheet import pixels

References = Callable[[ReferenceStyle], tuple[np.ndarray, np.ndarray]]
"""A style → the photo it names, (H, W, 3) uint8 at the model's scale, and where in it the instance is, (H, W) bool."""


class PhotoRenderer:
    """Draws the whole picture of a layout whose instances cover it, as `layouts.regions.layered` makes them.

    model: draws whole pictures; an instance's `defect` is one of its classes. references: finds what styles refer to.

    An instance without a style looks by the sample's seed and its own id. A model with styles gives every instance its
    look in one pass; one without (CRN) draws each of its k outputs once, and an instance with a seed shows the one that
    its seed chooses for its class.
    """

    def __init__(self, model: LayoutModel, *, references: References) -> None:
        self.name: str = model.kind
        self.model, self.references = model, references

    def render(self, layouts: Sequence[Layout], seeds: Sequence[int]) -> list[Sample]:
        """One sample per layout, all of it drawn. Raises ValueError for what the model cannot draw."""
        return [self._sample(layout, seed) for layout, seed in zip(layouts, seeds, strict=True)]

    def _sample(self, layout: Layout, seed: int) -> Sample:
        labels, ids = self._maps(layout)
        if self.model.styled:
            styles = {one.id: self._style(one) for one in layout.instances if one.style is not None}
            image = pixels(self.model.draw(labels, ids, seed=seed, styles=styles)[None])[0]
        else:
            image = self._by_outputs(layout, labels, ids, seed)
        if layout.background.shape[2] == 1:
            image = np.rint(image.mean(axis=2, keepdims=True)).astype(np.uint8)
        return Sample(image, layout.foreground.astype(np.uint8) * 255, layout, seed, self.name)

    def _maps(self, layout: Layout) -> tuple[Tensor, Tensor]:
        """Class ids and instance ids, (H, W) int64."""
        if layout.background.dtype != np.uint8:
            raise ValueError(f"{layout.source} is {layout.background.dtype}; renderers of whole pictures draw uint8")
        if not layout.instances:
            raise ValueError(
                f"the layout on {layout.source} has no instances; a renderer of whole pictures draws nothing without"
            )
        if any(instance.severity != 1 for instance in layout.instances):
            raise ValueError("a severity is of a defect, against its background; set it to 1 in a whole picture")
        labels = np.full(layout.size, -1 if self.model.ignore is None else self.model.ignore, np.int64)
        for instance in layout.instances:
            x0, y0, x1, y1 = instance.bbox
            labels[y0:y1, x0:x1][instance.mask] = self.model.class_id(instance.defect)
        if (bare := int((labels < 0).sum())) > 0:
            raise ValueError(
                f"the layout on {layout.source} leaves {bare} pixels without a class, and this renderer was trained "
                "without such pixels; put an instance there"
            )
        return torch.from_numpy(labels), torch.from_numpy(layout.instance_map().astype(np.int64))

    def _style(self, instance: Instance) -> Tensor:
        """(D,)."""
        label = self.model.class_id(instance.defect)
        match instance.style:
            case SeedStyle(own):
                return self.model.seed_style(label, own)
            case CentreStyle(centre):
                return self.model.centre_style(label, centre)
            case ReferenceStyle() as style:
                photo, inside = self.references(style)
                image = torch.from_numpy(to_uint8(photo)).movedim(-1, 0).float() / 127.5 - 1
                return self.model.encode_style(image, torch.from_numpy(inside))
            case _:
                raise AssertionError("asked of instances with a style")

    def _by_outputs(self, layout: Layout, labels: Tensor, ids: Tensor, seed: int) -> np.ndarray:
        """(H, W, 3) uint8."""
        chosen = np.full(layout.size, self.model.choose_output(labels, seed=seed))
        for instance in layout.instances:
            if isinstance(instance.style, CentreStyle | ReferenceStyle):
                raise ValueError(
                    f"instance {instance.id} has the style {instance.style}, this {self.name} renderer knows seeds "
                    "only; give it a seed, or take a renderer with a style bank"
                )
            if instance.style is not None:
                chosen[ids.numpy() == instance.id] = self.model.choose_output(
                    torch.tensor([self.model.class_id(instance.defect)]), seed=instance.style.seed
                )
        outputs = np.unique(chosen)
        drawn = [pixels(self.model.draw(labels, ids, seed=seed, output=int(output))[None])[0] for output in outputs]
        return np.stack(drawn)[np.searchsorted(outputs, chosen), *np.indices(layout.size)]
