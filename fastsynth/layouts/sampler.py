"""Random layouts for a background: which shapes, how turned and bent, and where. No torch.

Most shapes come from the real masks of a defect type, the rest are procedural shapes of the same size and kind.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Annotated

import numpy as np
from pydantic import Field, field_validator

from fastsynth.config import Config
from fastsynth.halo import grow
from fastsynth.layouts import grain
from fastsynth.layouts.layout import add_instance
from fastsynth.layouts.masks import Shape, crop_shape, draw_real, grow_shape
from fastsynth.layouts.parts import RealMask, RealPart, part_weights, split_parts, without_crumbs
from fastsynth.layouts.placement import object_region, place
from fastsynth.layouts.procedural import KINDS, Kind, draw_procedural, kind_of
from fastsynth.layouts.rim import keeps_to_rim
from fastsynth.layouts.severity import size_factor
from fastsynth.layouts.surroundings import Brightness
from fastsynth.types import Layout, Warp

ATTEMPTS = 16
"""Shapes drawn before an instance is given up."""
SEATED = 12
"""Of these the ones that put a shape the frame had cut on the frame again; an object may lie clear of it."""
SHRINK = 0.8
"""After every second attempt shapes are drawn this much smaller, down to 0.8^7 = 0.21."""
MOST_PARTS = 8
"""Parts of a real mask that a layout repeats at most, the largest; every one is drawn by itself."""
CONTACT = 0.8
"""A shape that left the frame is cut where its contact line is this long, as a share of the longest nearby."""
UNKNOWN_SIZE = (0.05, 0.25)
"""Sizes of a defect type without any real mask, as shares of the image's shorter side."""
QUARTERS = {1: (90,), 2: (-180, 180), 3: (-90,)}
"""Number of quarter turns → the angles in ±180° that are as much."""

Share = Annotated[float, Field(ge=0, le=1)]


class LayoutConfig(Config):
    """How layouts are drawn."""

    procedural_share: Share = 0.2
    """Probability that a shape is procedural rather than drawn from a real mask; none is where the frame cut the real
    one off."""
    procedural_kinds: dict[str, Annotated[tuple[Kind, ...], Field(min_length=1)]] | None = None
    """Kinds of procedural shapes by defect type; a type that is not named gets kinds like its real masks."""
    scale_range: tuple[Annotated[float, Field(ge=0.25)], Annotated[float, Field(le=4)]] = (0.7, 1.3)
    """Size of a drawn shape as a multiple of the real one."""
    severity_range: tuple[Annotated[float, Field(ge=0.25)], Annotated[float, Field(le=4)]] = (1.0, 1.0)
    """Severity s of an image's defects, drawn evenly by ratio: s times the area, √s times the contrast."""
    rotation_range: tuple[Annotated[float, Field(ge=-180)], Annotated[float, Field(le=180)]] | None = None
    """Degrees, counter-clockwise. null: [-5, 5] where the surface beside the training defects runs one way, as brushed
    metal or a weave does, else [-20, 20]. Learnt renderers see training pictures turned by the quarter turns in it."""
    flip: bool = True
    """Mirror each axis with probability ½; training pictures too."""
    elastic: Annotated[float, Field(ge=0, le=0.1)] = 0.04
    """Bending of a shape, as a share of its longer side."""
    thickness_range: tuple[Annotated[int, Field(ge=-4)], Annotated[int, Field(le=4)]] = (-1, 1)
    """Pixels by which a shape's border moves out (negative: in)."""
    margin: Annotated[int, Field(ge=0)] = 0
    """Pixels between a shape and the border of the object."""
    min_inside: Annotated[float, Field(gt=0, le=1)] = 0.95
    """Share of a shape's pixels that must lie on the object."""
    instances_range: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(le=100)]] | None = None
    """Instances per image. null: as one of the type's real masks has parts, in their likeness and arrangement."""
    same_class: bool = True
    """All instances of an image share one defect type."""
    source_position_share: Share = 0.5
    """Probability that a shape goes near the place its real mask had, on the rim of the image if it was there; 1 for
    types whose masks keep to the rim (`rim.keeps_to_rim`)."""
    position_jitter: Annotated[float, Field(ge=0, le=1)] = 0.05
    """How near: standard deviation as a share of the image."""
    surroundings_spread: Annotated[float, Field(gt=0)] | None = 0.1
    """Shapes go where it is about as bright on their four sides, for the picture, as beside their real masks: the
    standard deviation of that rank among the picture's pixels, of 0 to 1, on the side that fits least. null:
    anywhere."""

    @property
    def quarter_turns(self) -> tuple[int, ...]:
        """Turns by so many times 90°, counter-clockwise, that lie in `rotation_range`; no turn is always among them."""
        low, high = self.rotation_range or grain.ANYHOW
        return (0, *(turns for turns, angles in QUARTERS.items() if any(low <= angle <= high for angle in angles)))

    @field_validator("scale_range", "severity_range", "rotation_range", "thickness_range", "instances_range")
    @classmethod
    def _ascending(cls, value: tuple[float, float] | None) -> tuple[float, float] | None:
        if value is not None and value[0] > value[1]:
            raise ValueError("the first value is above the second; swap them")
        return value


@dataclass(frozen=True, eq=False)
class _Candidate:
    """A shape and where it would like to be."""

    mask: np.ndarray
    shape_source: str
    warp: Warp | None = None
    near: tuple[float, float] | None = None
    sides: frozenset[str] = frozenset()
    surroundings: Mapping[str, float] = field(default_factory=dict)


class LayoutSampler:
    """Draws layouts; all randomness comes from the `rng` given to `draw`. Arguments as in LayoutConfig.

    real_masks: of the training part only; taken one after the other, empty ones are skipped. A defect type without
    any is drawn procedurally.
    halo: pixels by which drawn shapes are grown, see `fastsynth.halo`.
    """

    def __init__(
        self,
        real_masks: Iterable[RealMask],
        *,
        procedural_share: float,
        procedural_kinds: Mapping[str, Sequence[Kind]] | None,
        scale_range: tuple[float, float],
        severity_range: tuple[float, float],
        rotation_range: tuple[float, float] | None,
        flip: bool,
        elastic: float,
        thickness_range: tuple[int, int],
        margin: int,
        min_inside: float,
        instances_range: tuple[int, int] | None,
        same_class: bool,
        source_position_share: float,
        position_jitter: float,
        surroundings_spread: float | None = None,
        halo: int = 0,
    ) -> None:
        parts: dict[str, list[RealPart]] = {}
        directions = []
        for mask in real_masks:
            parts.setdefault(mask.defect, []).extend(split_parts(mask))
            directions += [] if mask.direction is None else [mask.direction]
        self.parts = {defect: without_crumbs(found) for defect, found in parts.items() if found}
        self._weights = {defect: part_weights(found) for defect, found in self.parts.items()}
        self._rim = {defect for defect, found in self.parts.items() if keeps_to_rim(found)}
        self.procedural_share = procedural_share
        self.procedural_kinds = dict(procedural_kinds or {})
        self.scale_range = scale_range
        self.severity_range = severity_range
        self.rotation_range = grain.rotation_range(directions) if rotation_range is None else rotation_range
        self.flip = flip
        self.elastic = elastic
        self.thickness_range = thickness_range
        self.margin = margin
        self.min_inside = min_inside
        self.instances_range = instances_range
        self.same_class = same_class
        self.source_position_share = source_position_share
        self.position_jitter = position_jitter
        self.surroundings_spread = surroundings_spread
        self.halo = halo

    def draw(
        self,
        background: np.ndarray,
        source: str,
        category: str,
        defect: str,
        rng: np.random.Generator,
        *,
        region: np.ndarray | None = None,
    ) -> Layout:
        """A layout with at least one instance of `defect`; further instances only as far as they fit.

        background: (H, W, C) uint8 or uint16. region: (H, W) bool, where defects may be; by default the object that
        `placement.object_region` finds. The same state of `rng` gives the same layout.
        Raises ValueError when not even a much smaller shape fits.
        """
        layout = Layout(background, source, category)
        region = object_region(background) if region is None else region
        occupied = np.zeros(layout.size, bool)
        brightness = Brightness.of(background)
        severity = self._severity(rng)
        moved: np.ndarray | None = None  # from where the first part of a real mask lay, as a share of the image
        for name, part in self._planned(defect, rng):
            near = None if part is None or moved is None else np.clip(part.relative_centre + moved, 0, 1)
            extended = self._with_instance(
                layout, name, part, region, occupied, brightness, rng, severity=severity, near=near
            )
            if extended is None:
                continue
            layout = extended
            x0, y0, x1, y1 = layout.instances[-1].bbox
            occupied[y0:y1, x0:x1] |= layout.instances[-1].mask
            if part is not None and moved is None:
                moved = np.array([x0 + x1, y0 + y1]) / 2 / layout.size[::-1] - part.relative_centre
        if not layout.instances:
            height, width = layout.size
            raise ValueError(
                f"{source}: no place for a {defect!r} on {width}×{height} px ({region.mean():.0%} of it object) after "
                f"{ATTEMPTS} shapes; lower min_inside or margin, or widen scale_range towards smaller shapes"
            )
        return layout

    def _planned(self, defect: str, rng: np.random.Generator) -> Iterator[tuple[str, RealPart | None]]:
        """Type and, where that is given, the part in whose likeness it is, of every instance that is wanted."""
        if self.instances_range is None:
            yield from ((defect, part) for part in self._parts_of_a_mask(defect, rng))
            return
        for number in range(int(rng.integers(*self.instances_range, endpoint=True))):
            yield (defect if self.same_class or number == 0 else str(rng.choice(sorted({*self.parts, defect})))), None

    def _parts_of_a_mask(self, defect: str, rng: np.random.Generator) -> Sequence[RealPart | None]:
        """The parts of one real mask, the largest first; a mask is taken as often as its parts together."""
        parts = self.parts.get(defect)
        if not parts:
            return [None]
        source = parts[int(rng.choice(len(parts), p=self._weights[defect]))].source
        own = [part for part in parts if part.source == source]
        return sorted(own, key=lambda part: int(part.foreground.sum()), reverse=True)[:MOST_PARTS]

    def _severity(self, rng: np.random.Generator) -> float:
        """Nothing is drawn from `rng` for a range of one value."""
        low, high = self.severity_range
        return low if low == high else float(np.exp(rng.uniform(np.log(low), np.log(high))))

    def _with_instance(
        self,
        layout: Layout,
        defect: str,
        part: RealPart | None,
        region: np.ndarray,
        occupied: np.ndarray,
        brightness: Brightness,
        rng: np.random.Generator,
        *,
        severity: float,
        near: np.ndarray | None,
    ) -> Layout | None:
        """`layout` and one more instance on pixels that are not `occupied`, or None when nothing fits.

        near: where it should be, x, y as shares of the image; None: where the candidate would like to be.
        """
        for attempt in range(ATTEMPTS):
            shrink = size_factor(severity) * SHRINK ** (attempt // 2)
            candidate = self._candidate(defect, part, layout.size, shrink, rng, seated=attempt < SEATED)
            position = place(
                candidate.mask,
                region,
                rng=rng,
                margin=0 if candidate.sides else self.margin,
                min_inside=self.min_inside,
                occupied=occupied,
                near=candidate.near if near is None else (float(near[0]), float(near[1])),
                jitter=self.position_jitter,
                sides=candidate.sides,
                preference=self._preference(candidate, brightness),
            )
            if position is not None:
                return add_instance(
                    layout,
                    defect=defect,
                    mask=candidate.mask,
                    left=position[0],
                    top=position[1],
                    warp=candidate.warp,
                    shape_source=candidate.shape_source,
                    severity=severity,
                )
        return None

    def _preference(self, candidate: _Candidate, brightness: Brightness) -> np.ndarray | None:
        """Log-density of a normal distribution of the ranks around the real mask's, on the side that fits least."""
        if not candidate.surroundings or self.surroundings_spread is None:
            return None
        found = brightness.beside(candidate.mask.shape)
        apart = np.max([np.abs(found[side] - rank) for side, rank in candidate.surroundings.items()], axis=0)
        preference: np.ndarray = -(apart**2) / (2 * self.surroundings_spread**2)
        return preference

    def _candidate(
        self,
        defect: str,
        part: RealPart | None,
        size: tuple[int, int],
        shrink: float,
        rng: np.random.Generator,
        *,
        seated: bool,
    ) -> _Candidate:
        """part: in whose likeness; None: of any of the type.

        seated: a mask that the frame cut lies on the frame again; its border there is no defect's.
        """
        parts = self.parts.get(defect)
        if not parts:
            return self._unseen_candidate(defect, size, shrink, rng)
        part = part or parts[int(rng.choice(len(parts), p=self._weights[defect]))]
        if part.sides and not seated and (uncut := [other for other in parts if not other.sides]):
            part = uncut[int(rng.integers(len(uncut)))]
        stays = rng.random() < self.source_position_share or defect in self._rim
        # a shape that the frame cut off is known in part only: one made up in its likeness would be no defect's
        if rng.random() < self.procedural_share and not part.sides:
            scale = shrink * np.exp(rng.uniform(*np.log(self.scale_range)))
            height, width = np.maximum(1, np.rint(scale * np.array(part.foreground.shape))).astype(int)
            alike = kind_of(part)
            kind = self._kind(defect, alike, rng)
            return self._made_up(
                kind,
                (height, width),
                rng,
                near=part.relative_centre if stays else None,
                like=part if kind == alike else None,
                surroundings=part.surroundings,
            )
        shape = draw_real(
            part,
            rng=rng,
            scale_range=(shrink * self.scale_range[0], shrink * self.scale_range[1]),
            rotation_range=self.rotation_range,
            flip=self.flip,
            elastic=self.elastic,
            thickness_range=self.thickness_range,
            frame=size,
        )
        sides = _sides_within(shape, size, rng) if seated else frozenset()
        shape = grow_shape(seat(shape, sides, size), self.halo, sides=sides)
        near = shape.centre if stays else None
        return _Candidate(shape.mask, part.source, shape.warp, near, sides, shape.surroundings)

    def _unseen_candidate(
        self, defect: str, size: tuple[int, int], shrink: float, rng: np.random.Generator
    ) -> _Candidate:
        across = shrink * min(size) * rng.uniform(*UNKNOWN_SIZE, 2)
        height, width = np.maximum(1, np.rint(across)).astype(int)
        kind = self._kind(defect, KINDS[int(rng.integers(len(KINDS)))], rng)
        return self._made_up(kind, (height, width), rng)

    def _made_up(
        self,
        kind: Kind,
        size: tuple[int, int],
        rng: np.random.Generator,
        *,
        near: tuple[float, float] | None = None,
        like: RealPart | None = None,
        surroundings: Mapping[str, float] = MappingProxyType({}),
    ) -> _Candidate:
        drawn = draw_procedural(kind, size, rng, like=like)
        mask = grow(np.pad(drawn, self.halo), self.halo)
        return _Candidate(mask, f"procedural:{kind}", near=near, surroundings=surroundings)

    def _kind(self, defect: str, default: Kind, rng: np.random.Generator) -> Kind:
        """One of the configured kinds of this defect type, else `default`."""
        kinds = self.procedural_kinds.get(defect, (default,))
        return kinds[int(rng.integers(len(kinds)))]


def seat(shape: Shape, sides: frozenset[str], size: tuple[int, int]) -> Shape:
    """`shape` with straight contact lines on `sides`, for an image of size (H, W).

    Turning and bending leaves only a corner of the old contact line at the rim. So the shape hangs over the frame
    until the line there is long enough, and what hangs over is cut off. Between two opposite sides it hangs over
    both alike.
    """
    left, right = _kept(shape.mask.sum(axis=0), "left" in sides, "right" in sides, available=size[1])
    top, bottom = _kept(shape.mask.sum(axis=1), "top" in sides, "bottom" in sides, available=size[0])
    return crop_shape(shape, (left, top, right, bottom))


def _kept(profile: np.ndarray, first: bool, last: bool, *, available: int) -> tuple[int, int]:
    """Range of the lines that stay when the `first`, the `last` or both must lie on the frame."""
    if first and last:
        surplus = len(profile) - available
        return surplus // 2, surplus // 2 + available
    start = _overhang(profile) if first else 0
    return start, len(profile) - (_overhang(profile[::-1]) if last else 0)


def _overhang(profile: np.ndarray) -> int:
    """Lines to cut: up to the first that is nearly as long as the longest within the first third."""
    third = profile[: max(1, len(profile) // 3)]
    return int(np.argmax(third >= CONTACT * third.max()))


def _sides_within(shape: Shape, size: tuple[int, int], rng: np.random.Generator) -> frozenset[str]:
    """The sides the shape can touch at once: of two opposite ones that it cannot span, one stays."""
    (height, width), sides = shape.mask.shape, set(shape.sides)
    for pair, extent, available in ((("left", "right"), width, size[1]), (("top", "bottom"), height, size[0])):
        if sides.issuperset(pair) and extent < available:
            sides.remove(pair[int(rng.integers(2))])
    return frozenset(sides)
