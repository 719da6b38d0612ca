"""What layout renderers are trained on: batches of layouts and pictures, and where they come from.

Pictures and label maps stay uint8 until a batch is drawn. B batch, H W picture size, S side of a square crop.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol, Self

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from generators.encoding import FIRST_DEFECT, surroundings
from generators.surface import surface_detail, surface_gain, times


class Batch(NamedTuple):
    """labels, instances: (B, H, W) int64. image: (B, 3, H, W) float in [-1, 1], with a hole at `surface.LEVEL`.

    hole: (B, 1, H, W), 1 where the renderer draws into the picture; None when it draws all of it.
    detail: (B, 3, H, W) of `surface.surface_detail`, of a sound surface under what is drawn into the hole.
    """

    labels: Tensor
    instances: Tensor
    image: Tensor
    hole: Tensor | None = None
    detail: Tensor | None = None

    def to(self, device: torch.device) -> Self:
        return self._replace(**{k: v.to(device) for k, v in self._asdict().items() if v is not None})

    def part(self, samples: slice) -> Self:
        """Some of the samples."""
        return self._replace(**{k: v[samples] for k, v in self._asdict().items() if v is not None})

    def repeated(self, count: int) -> Self:
        """Every sample `count` times, one after the other."""
        fields = {k: v.repeat_interleave(count, dim=0) for k, v in self._asdict().items() if v is not None}
        return self._replace(**fields)

    @property
    def context(self) -> Tensor | None:
        """What a renderer sees of the picture, see `encoding.surroundings`."""
        return None if self.hole is None else surroundings(self.image, self.hole)

    @property
    def styled(self) -> Tensor:
        """(B, 1, H, W), 1 where instances have a style: everywhere, or on the defects of a hole."""
        if self.hole is None:
            return torch.ones_like(self.image[:, :1])
        return (self.labels >= FIRST_DEFECT)[:, None].to(self.image)

    def composite(self, render: Tensor) -> Tensor:
        """`render` in the hole, over the detail of a surface; the picture around it.

        render: (B, 3, H, W), or (B, k, 3, H, W) of k outputs.
        """
        if self.hole is None or self.detail is None:
            return render
        hole, image, detail = self.hole, self.image, self.detail
        if render.ndim == 5:
            hole, image, detail = hole[:, None], image[:, None], detail[:, None]
        return hole * times(render, detail) + (1 - hole) * image


class Source(Protocol):
    """Draws training batches. class_names: by id."""

    @property
    def class_names(self) -> Sequence[str]: ...

    def draw(self, count: int, *, shrink: int, rng: np.random.Generator) -> Batch:
        """A random batch at 1/shrink of the full size."""
        ...

    def samples(self, count: int, *, shrink: int) -> Batch:
        """The same few layouts every time, for sheets; not trained on where there are enough."""
        ...

    def every(self, *, shrink: int, batch_size: int) -> Iterator[Batch]:
        """All there is, without augmentation: every instance is in one of the batches at least."""
        ...


class CropSource:
    """Crops around the defects, and of normal pictures under borrowed masks: what to draw into a hole.

    Args:
        pictures: (N, 3, S, S) uint8. masks, objects: (N, 1, S, S) uint8 of 0 and 1, the holes and the object.
        classes: (N,) ids of `class_names`; 0 for normal pictures, whose hole shows background or object.
        class_names: by id; `HOLE_CLASSES`, then the defects.
        normal_share: share of the drawn crops that are normal ones, where there are any.
    """

    def __init__(
        self,
        pictures: np.ndarray,
        masks: np.ndarray,
        objects: np.ndarray,
        classes: np.ndarray,
        *,
        class_names: Sequence[str],
        normal_share: float,
    ) -> None:
        self.pictures, self.masks, self.objects, self.classes = pictures, masks, objects, classes
        self.class_names = tuple(class_names)
        self.normals, self.defects = np.flatnonzero(classes == 0), np.flatnonzero(classes)
        self.normal_share = normal_share if len(self.normals) else 0.0

    def draw(self, count: int, *, shrink: int, rng: np.random.Generator) -> Batch:
        normal = rng.random(count) < self.normal_share
        picks = np.array([rng.choice(self.normals if is_normal else self.defects) for is_normal in normal])
        return self._batch(picks, shrink, surfaces=rng.integers(max(len(self.normals), 1), size=count))

    def samples(self, count: int, *, shrink: int) -> Batch:
        """Defects, evenly over the classes (they are trained on: a few training defects can spare none)."""
        picks = np.linspace(0, len(self.defects) - 1, count).round().astype(int)
        return self._batch(self.defects[picks], shrink)

    def of_class(self, label: int, count: int) -> Batch:
        """Up to `count` crops of one class of defects, evenly over all it has, which is at least one."""
        return self._batch(self._of_class(label, count), shrink=1)

    def on_normals(self, label: int, count: int) -> Batch:
        """The layouts of `of_class` on normal pictures, over their own detail; without normals, where they were."""
        own = self._of_class(label, count)
        if not len(self.normals):
            return self._batch(own, shrink=1)
        lent = self.normals[np.arange(len(own)) % len(self.normals)]
        picture, hole = self._pictures(lent, 1), torch.from_numpy(self.masks[own]).float()
        labels = torch.where(hole[:, 0] > 0, label, torch.from_numpy(self.objects[lent])[:, 0].long())
        image = times(picture, surface_gain(picture, hole))
        return Batch(labels, components(hole[:, 0].long()), image, hole, surface_detail(picture, hole))

    def every(self, *, shrink: int, batch_size: int) -> Iterator[Batch]:
        for start in range(0, len(self.defects), batch_size):
            yield self._batch(self.defects[start : start + batch_size], shrink)

    def _of_class(self, label: int, count: int) -> np.ndarray:
        own = np.flatnonzero(self.classes == label)
        return own[np.linspace(0, len(own) - 1, min(count, len(own))).round().astype(int)]

    def _batch(self, picks: np.ndarray, shrink: int, *, surfaces: np.ndarray | None = None) -> Batch:
        """surfaces: which normals lend their detail; None: the first ones in turn."""
        image = self._pictures(picks, shrink)
        # the largest value of each cell, so that hair-thin defects survive
        hole = F.max_pool2d(torch.from_numpy(self.masks[picks]).float(), shrink)
        objects = F.max_pool2d(torch.from_numpy(self.objects[picks]).float(), shrink)[:, 0].long()
        classes = torch.from_numpy(self.classes[picks])[:, None, None]
        labels = torch.where((hole[:, 0] > 0) & (classes > 0), classes, objects)
        image = times(image, surface_gain(image, hole))
        return Batch(labels, components(hole[:, 0].long()), image, hole, self._detail(picks, surfaces, hole, shrink))

    def _detail(self, picks: np.ndarray, surfaces: np.ndarray | None, hole: Tensor, shrink: int) -> Tensor:
        """A normal crop keeps its own; a defect's is that of another surface. Without normals there is none, 1."""
        if not len(self.normals):
            return torch.ones_like(hole)
        lent = self.normals[(np.arange(len(picks)) if surfaces is None else surfaces) % len(self.normals)]
        return surface_detail(self._pictures(np.where(self.classes[picks] == 0, picks, lent), shrink), hole)

    def _pictures(self, picks: np.ndarray, shrink: int) -> Tensor:
        return F.avg_pool2d(torch.from_numpy(self.pictures[picks]).float() / 127.5 - 1, shrink)


def components(labels: Tensor) -> Tensor:
    """Connected regions of equal label, numbered from 0 per layout: (B, H, W) int64, like `labels`."""
    return torch.stack([torch.from_numpy(components_of(layout.numpy())) for layout in labels])


def components_of(labels: np.ndarray) -> np.ndarray:
    """As `components`, of one (H, W) label map; regions are numbered class by class."""
    instances = np.zeros(labels.shape, np.int64)
    start = 0
    for label in np.unique(labels):
        count, numbers = cv2.connectedComponents((labels == label).astype(np.uint8), connectivity=8)
        inside = numbers > 0
        instances[inside] = numbers[inside] - 1 + start
        start += count - 1
    return instances
