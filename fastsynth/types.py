"""What flows between the stages: a layout says what goes where, a renderer turns it into a sample. numpy only.

Outside a model images are (H, W, C) with C 1 or 3, uint8 or uint16; a foreground is (H, W) bool; a written mask
is (H, W) uint8 of 0 and 255. Boxes are [x0, y0, x1, y1] in pixels, x1 and y1 exclusive.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

COMBINED = "combined"
"""Defect name of a sample that holds instances of several classes (the word MVTec uses)."""


@dataclass(frozen=True)
class Warp:
    """Where an instance's shape came from: patch pixel p -> source pixel matrix @ (p + elastic(p), 1).

    source: path of the mask the shape was drawn from, relative to the data root, forward slashes.
    matrix: the 2×3 affine map, row by row, from patch (x, y) to source (x, y).
    seed, amplitude, wavelength: the elastic field, see `layouts.masks.warp_coordinates`; both in patch pixels.
    """

    source: str
    matrix: tuple[float, float, float, float, float, float]
    seed: int = 0
    amplitude: float = 0.0
    wavelength: float = 64.0


@dataclass(frozen=True)
class SeedStyle:
    """A look drawn at random: on one shape the same seed gives the same look. seed: 0 … 2^63 - 1."""

    seed: int


@dataclass(frozen=True)
class CentreStyle:
    """Centre `centre`, counted from 0, of the style bank of the instance's class."""

    centre: int


@dataclass(frozen=True)
class ReferenceStyle:
    """The look of instance `instance` of picture `image`.

    image: path relative to the data root, forward slashes.
    instance: id of a drawn one; in an annotated picture its parts count from 1, as `layouts.parts.split_parts` cuts.
    """

    image: str
    instance: int


Style = SeedStyle | CentreStyle | ReferenceStyle


@dataclass(frozen=True, eq=False)
class Instance:
    """One defect of a layout.

    id: 1-based, unique in its layout.
    defect: class name.
    mask: (h, w) bool, tight: its first and last rows and columns hold at least one True.
    left, top: position of the mask's upper left pixel in the image.
    warp: how the mask was drawn from a real one, or None for a procedural shape.
    shape_source: path of the real mask (as `warp.source`), or "procedural:<kind>".
    style: how it looks. None: by a seed of its own, from the sample's seed and its id, so that editing one instance
    leaves the others' looks alone.
    locked: edits refuse to change it.
    severity: 1 as the renderer draws it; its contrast to the background is multiplied, see `layouts.severity`.
    """

    id: int
    defect: str
    mask: np.ndarray
    left: int
    top: int
    warp: Warp | None = None
    shape_source: str = ""
    style: Style | None = None
    locked: bool = False
    severity: float = 1.0

    def __post_init__(self) -> None:
        if self.mask.ndim != 2 or self.mask.dtype != bool:
            raise ValueError(f"instance mask is {self.mask.dtype} {self.mask.shape}; pass a (h, w) bool array")
        if not self.mask.any():
            raise ValueError(f"instance {self.id} ({self.defect}) has an empty mask; draw at least one pixel")

    @property
    def bbox(self) -> tuple[int, int, int, int]:
        height, width = self.mask.shape
        return self.left, self.top, self.left + width, self.top + height

    @property
    def area(self) -> int:
        """Pixels inside the mask."""
        return int(self.mask.sum())


@dataclass(frozen=True, eq=False)
class Layout:
    """A background and what goes where on it.

    background: (H, W, C) uint8 or uint16, the normal image at native size.
    source: its path relative to the data root, forward slashes.
    instances: in drawing order; a later instance lies over an earlier one.
    """

    background: np.ndarray
    source: str
    category: str
    instances: tuple[Instance, ...] = ()

    def __post_init__(self) -> None:
        check_image(self.background)
        height, width = self.size
        for instance in self.instances:
            x0, y0, x1, y1 = instance.bbox
            if x0 < 0 or y0 < 0 or x1 > width or y1 > height:
                raise ValueError(
                    f"instance {instance.id} covers {instance.bbox}, the image is {width}×{height}; "
                    "move it inside or make it smaller"
                )
        ids = [instance.id for instance in self.instances]
        if len(set(ids)) != len(ids):
            raise ValueError(f"instance ids {ids} repeat; number them 1, 2, 3, …")

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.background.shape[0], self.background.shape[1]

    @property
    def foreground(self) -> np.ndarray:
        """(H, W) bool, the union of all instances."""
        return self.instance_map() > 0

    def instance_map(self) -> np.ndarray:
        """(H, W) uint16: the id of the topmost instance, 0 where there is none."""
        ids = np.zeros(self.size, np.uint16)
        for instance in self.instances:
            x0, y0, x1, y1 = instance.bbox
            ids[y0:y1, x0:x1][instance.mask] = instance.id
        return ids

    @property
    def defect(self) -> str:
        """The one class of all instances, or "combined"."""
        names = {instance.defect for instance in self.instances}
        return names.pop() if len(names) == 1 else COMBINED


@dataclass(frozen=True, eq=False)
class Sample:
    """A rendered layout.

    image: like the background in size, channels and dtype; equal to it bit for bit outside the mask.
    mask: (H, W) uint8, 255 inside the defects, 0 outside.
    seed: the sample's own seed.
    num_inference_steps: calls of the denoiser, 0 for renderers without one.
    notes: what the renderer wants recorded in the manifest (JSON values).
    """

    image: np.ndarray
    mask: np.ndarray
    layout: Layout
    seed: int
    renderer: str
    num_inference_steps: int = 0
    notes: dict[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_image(self.image)
        if self.mask.shape != self.image.shape[:2] or self.mask.dtype != np.uint8:
            raise ValueError(
                f"mask is {self.mask.dtype} {self.mask.shape}, image is {self.image.shape}; "
                "pass a uint8 mask of the image's size"
            )


class Renderer(Protocol):
    """Turns layouts into samples: same seed same bytes, whatever the batch; outside the mask bit-exact."""

    name: str

    def render(self, layouts: Sequence[Layout], seeds: Sequence[int]) -> list[Sample]: ...


def check_image(image: np.ndarray) -> None:
    """Raises ValueError unless `image` is (H, W, 1 or 3), uint8 or uint16."""
    if image.ndim != 3 or image.shape[2] not in (1, 3) or image.dtype not in (np.uint8, np.uint16):
        raise ValueError(
            f"image is {image.dtype} {image.shape}; pass (H, W, 1 or 3) in uint8 or uint16, "
            "as fastsynth.images.read_image returns it"
        )


def sample_seed(run_seed: int, sample_id: int, attempt: int = 0) -> int:
    """A 63-bit seed of its own for every sample: SeedSequence((run seed, sample id, attempt))."""
    sequence = np.random.SeedSequence((run_seed, sample_id, attempt))
    return int(sequence.generate_state(1, np.uint64)[0] >> 1)


def instance_seed(instance: Instance, seed: int, *, renderer: str) -> int:
    """The seed of an instance's look in a sample of `seed`: for renderers that know no other styles than seeds.

    Raises ValueError for a bank centre or a reference; `renderer` is named in it.
    """
    match instance.style:
        case None:
            return sample_seed(seed, instance.id)
        case SeedStyle(own):
            return own
        case style:
            raise ValueError(
                f"instance {instance.id} ({instance.defect}) has the style {style}, renderer {renderer} knows seeds "
                "only; give it a seed, or take a renderer with a style bank"
            )
