"""Augmented views of training images, cut like the crops of generation, encoded once before training.

B crops, S model size, C latent channels, h = w = S/8.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import torch
from safetensors.torch import load_file, save
from torch import Tensor
from tqdm import tqdm

from fastsynth.diffusion.conditioning import NORMAL
from fastsynth.diffusion.pipeline import FASTPipeline
from fastsynth.files import atomic_write
from fastsynth.layouts.crop import Crop, crop_around, cut, cut_mask, mask_to_model, to_model
from fastsynth.layouts.exemplar import Exemplar
from fastsynth.layouts.parts import RealMask, split_parts
from fastsynth.layouts.placement import object_region
from fastsynth.layouts.poses import Poses

CONTEXT_JITTER = 1.4
TONE_JITTER = 0.15


@dataclass(frozen=True)
class View:
    """picture: (3, S, S) float32 in [-1, 1]. mask_image, object_image: (1, S, S) of 0 and 1, the defect and what it
    lies on."""

    picture: np.ndarray
    mask_image: np.ndarray
    object_image: np.ndarray
    category: str
    defect: str


@dataclass(frozen=True)
class EncodedViews:
    """latents: (N, C, h, w). mask_images: (N, 1, S, S) uint8. rows: (N,) rows of the defect tokens."""

    latents: Tensor
    mask_images: Tensor
    rows: Tensor

    def __len__(self) -> int:
        return len(self.rows)

    def save(self, path: Path) -> None:
        """As safetensors, atomically: a resumed training need not encode again."""
        atomic_write(path, save(vars(self)))

    @classmethod
    def load(cls, path: Path) -> Self:
        return cls(**load_file(path))

    def batch(self, picks: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
        """Latents, mask images (float) and rows of the picked views."""
        at = torch.from_numpy(picks)
        return self.latents[at], self.mask_images[at].float(), self.rows[at]


def defect_views(
    exemplars: Sequence[Exemplar], *, count: int, size: int, context: float, poses: Poses, rng: np.random.Generator
) -> Iterator[View]:
    """About `count` views, the same number of every (category, defect), every part of every defect in turn."""
    by_pair: dict[tuple[str, str], list[Exemplar]] = {}
    for exemplar in exemplars:
        by_pair.setdefault((exemplar.category, exemplar.defect), []).append(exemplar)
    for of_pair in by_pair.values():
        parts = [split_parts(RealMask(e.source, e.defect, e.foreground)) for e in of_pair]
        for number in range(max(count // len(by_pair), len(of_pair))):
            which = number % len(of_pair)
            part = parts[which][rng.integers(len(parts[which]))]
            height, width = part.foreground.shape
            bbox = (part.left, part.top, part.left + width, part.top + height)
            yield view_of(of_pair[which], bbox, size=size, context=context, poses=poses, rng=rng)


def normal_views(
    read_normal: Callable[[int], tuple[np.ndarray, str]],
    number_of_normals: int,
    exemplars: Sequence[Exemplar],
    *,
    count: int,
    size: int,
    context: float,
    poses: Poses,
    rng: np.random.Generator,
) -> Iterator[View]:
    """`count` views of normal images under masks borrowed from the defects: they teach what a mask may hide.

    read_normal: index in 0 … number_of_normals - 1 → (image, category).
    """
    for _ in range(count):
        image, category = read_normal(int(rng.integers(number_of_normals)))
        exemplar = exemplars[int(rng.integers(len(exemplars)))]
        parts = split_parts(RealMask(exemplar.source, exemplar.defect, exemplar.foreground))
        mask = parts[rng.integers(len(parts))].foreground
        mask = mask[: image.shape[0], : image.shape[1]]
        top = int(rng.integers(image.shape[0] - mask.shape[0] + 1))
        left = int(rng.integers(image.shape[1] - mask.shape[1] + 1))
        foreground = np.zeros(image.shape[:2], bool)
        foreground[top : top + mask.shape[0], left : left + mask.shape[1]] = mask
        normal = Exemplar(image, foreground, category, NORMAL, source="", region=object_region(image))
        bbox = (left, top, left + mask.shape[1], top + mask.shape[0])
        yield view_of(normal, bbox, size=size, context=context, poses=poses, rng=rng)


def encode_views(views: Iterator[View], pipeline: FASTPipeline, *, total: int, batch_size: int = 16) -> EncodedViews:
    """Run the pipeline's encoder over all views once. The latents stay in memory: 48 kB a view at the default sizes."""
    latents: list[Tensor] = []
    masks: list[Tensor] = []
    rows: list[int] = []
    waiting: list[View] = []

    def flush() -> None:
        pictures = torch.from_numpy(np.stack([view.picture for view in waiting])).to(pipeline.device)
        mask_images = torch.from_numpy(np.stack([view.mask_image for view in waiting])).to(pipeline.device)
        with torch.no_grad():
            latents.append(pipeline.training_latents(pictures, mask_images).cpu())
        masks.append(mask_images.to("cpu", torch.uint8))
        rows.extend(pipeline.tokens.index(view.category, view.defect) for view in waiting)
        waiting.clear()

    for view in tqdm(views, total=total, desc="encode", leave=False):
        waiting.append(view)
        if len(waiting) == batch_size:
            flush()
    if waiting:
        flush()
    return EncodedViews(latents=torch.cat(latents), mask_images=torch.cat(masks), rows=torch.tensor(rows))


def view_of(
    defect: Exemplar,
    bbox: tuple[int, int, int, int],
    *,
    size: int,
    context: float,
    poses: Poses,
    rng: np.random.Generator,
) -> View:
    """One crop with jittered zoom and place, in one of the poses, its tone changed."""
    zoom = context * CONTEXT_JITTER ** rng.uniform(-1, 1)
    height, width = defect.image.shape[:2]
    crop = crop_around(bbox, image_size=(height, width), context=zoom)
    slack = max(crop.side - max(bbox[2] - bbox[0], bbox[3] - bbox[1]), 0) // 3
    shift_x, shift_y = (int(s) for s in rng.integers(-slack, slack + 1, 2))
    crop = Crop(
        left=_shifted(crop.left + shift_x, crop.side, holding=(bbox[0], bbox[2]), length=width),
        top=_shifted(crop.top + shift_y, crop.side, holding=(bbox[1], bbox[3]), length=height),
        side=crop.side,
    )
    picture = to_model(cut(defect.image, crop), size=size, values=defect.place.values)
    mask = mask_to_model(cut_mask(defect.foreground, crop), size=size)
    region = mask_to_model(cut_mask(defect.region_shown, crop), size=size)
    pose = poses.drawn(rng)
    picture, mask, region = (np.ascontiguousarray(pose.of(array)) for array in (picture, mask, region))
    gain, lift = 1 + rng.uniform(-1, 1) * TONE_JITTER, rng.uniform(-1, 1) * TONE_JITTER
    picture = np.clip((picture - picture.mean()) * gain + picture.mean() + lift, -1, 1)
    return View(picture, mask, region, defect.category, defect.defect)


def _shifted(start: int, side: int, *, holding: tuple[int, int], length: int) -> int:
    """The start nearest to `start` of a crop that holds the defect and, if it fits, stays inside the image."""
    if side > length:
        return (length - side) // 2
    return min(max(start, holding[1] - side, 0), holding[0], length - side)
