"""Exemplars: a real training defect, warped to a layout's mask, tone-matched and pasted, to start the sampler from.

Noised to a share `strength` of the diffusion time it is a dial between copy-paste (0) and pure synthesis (1).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import cv2
import numpy as np

from fastsynth.layouts.crop import Crop, ValueRange, cut, cut_mask, feather_weight, ring
from fastsynth.layouts.lines import CentreLine, line_coordinates, mismatch
from fastsynth.layouts.masks import warp_coordinates
from fastsynth.layouts.moments import least_turn, moments_of
from fastsynth.layouts.parts import tight_box
from fastsynth.layouts.placement import object_region
from fastsynth.types import Instance, Warp

REACH = 1.5
"""What is kept around a defect, in units of context × its longer side: training zooms out by up to 1.4, and moves."""
MIN_REACH = 96
"""Pixels kept around a small one, whose surroundings are looked at in pixels."""
LOTS = 16
"""Defects drawn at random for a made-up shape; one of those that fit is borrowed."""
FITS = 0.3
"""`_distortion` of a warp that nobody sees: 12 degrees of turn, or stretched by half."""
CONTRAST_GAINS = 0.5, 2.0
"""What a drawn defect's contrast may be multiplied by to be that of its exemplar."""
LIGHT_SIDE = 48
"""Longer side of the crops in which light is interpolated; it is smooth."""
SPREAD = 0.125
"""How far light is smoothed, as a share of the defect's longer side."""
MIN_SPREAD = 16.0
"""The least of it, in pixels: grain and weave are no light."""
EDGE = 2.0
"""Pixels past a defect's border that still show the border: mirrored, a pit's dark floor would speck its rim."""


@dataclass(frozen=True, eq=False)
class Place:
    """Where a part of a picture lies.

    left, top: picture x, y of its upper left pixel. size: H, W of the picture. values: range of all its pixels.
    """

    left: int
    top: int
    size: tuple[int, int]
    values: ValueRange


@dataclass(frozen=True, eq=False)
class Exemplar:
    """A real training defect, in its picture or in the part of it that is kept.

    image: (h, w, C) uint8 or uint16. foreground: (h, w) bool. source: the mask's path, relative to the data root.
    part: where in the picture the two lie; None: they are the whole picture.
    region: (h, w) bool, the object that the defect lies on; None: all of it.
    """

    image: np.ndarray
    foreground: np.ndarray
    category: str
    defect: str
    source: str
    part: Place | None = None
    region: np.ndarray | None = None

    @property
    def region_shown(self) -> np.ndarray:
        """(h, w) bool."""
        return np.ones_like(self.foreground) if self.region is None else self.region

    @property
    def place(self) -> Place:
        height, width = self.foreground.shape
        return self.part or Place(0, 0, (height, width), ValueRange.of(self.image))

    @cached_property
    def moments(self) -> tuple[np.ndarray, np.ndarray]:
        """Centre x, y in the picture and covariance (2, 2) of the largest part."""
        _, labels, stats, _ = cv2.connectedComponentsWithStats(self.foreground.astype(np.uint8))
        largest = 1 + int(stats[1:, cv2.CC_STAT_AREA].argmax())
        return moments_of(labels == largest, origin=(self.place.left, self.place.top))

    @cached_property
    def line(self) -> CentreLine | None:
        """That of the largest part, in the picture; None if it is no line."""
        return CentreLine.of(self.foreground, origin=(self.place.left, self.place.top))

    def without_the_rest(self, *, context: float) -> "Exemplar":
        """A copy that holds no more of the picture than is looked at where crops have `context`, as in `crop_around`.

        The foreground must not be empty.
        """
        x0, y0, x1, y1 = tight_box(self.foreground)
        reach = max(MIN_REACH, int(np.ceil(REACH * context * max(x1 - x0, y1 - y0))))
        place = self.place
        left, top = max(x0 - reach, 0), max(y0 - reach, 0)
        kept = np.s_[top : y1 + reach, left : x1 + reach]
        return replace(
            self,
            image=self.image[kept].copy(),
            foreground=self.foreground[kept].copy(),
            region=None if self.region is None else self.region[kept].copy(),
            part=replace(place, left=place.left + left, top=place.top + top),
        )


class ExemplarBank:
    """The training defects, by category and type, and by the path of their mask."""

    def __init__(self, exemplars: Sequence[Exemplar]) -> None:
        self.by_source = {exemplar.source: exemplar for exemplar in exemplars}
        self.by_pair: dict[tuple[str, str], list[Exemplar]] = {}
        for exemplar in exemplars:
            self.by_pair.setdefault((exemplar.category, exemplar.defect), []).append(exemplar)

    def warped_into(
        self, background: np.ndarray, instance: Instance, crop: Crop, *, category: str, seed: int
    ) -> np.ndarray:
        """`background`'s crop with the instance's exemplar pasted in: (side, side, C) float32 in [-1, 1].

        In 16 bit a defect may be brighter or darker than all of the background's picture, and leave [-1, 1], but no
        further than its own picture's range.
        """
        inside = instance_mask(instance, crop)
        exemplar, map_x, map_y = self._mapped(instance, crop, inside, category=category, seed=seed)
        around = ring(inside, width=4)
        own, scale = _scales(exemplar, background)
        defect = _lit(
            _remapped(exemplar, map_x, map_y, inside, values=own),
            scale.to_float(cut(background, crop)),
            inside,
            around_own=around & _surface(exemplar, map_x, map_y),
            around=around & cut_mask(object_region(background), crop),
        )
        values = ValueRange.of(background)
        clean, held = values.to_float(cut(background, crop)), np.array([-1.0, 1.0])
        if own == scale != values:
            defect = values.to_float((defect + 1) * np.float32(scale.high / 2))
            ranges = values, exemplar.place.values
            held = values.to_float(np.array([min(r.low for r in ranges), max(r.high for r in ranges)]))
        beyond = ~cut_mask(np.ones(background.shape[:2], bool), crop)
        weight = feather_weight(inside, 2.0, beyond=beyond)[..., None]
        return np.clip(clean + weight * (defect - clean), *held).astype(np.float32)

    def warped(self, instance: Instance, crop: Crop, inside: np.ndarray, *, category: str, seed: int) -> np.ndarray:
        """The instance's exemplar in the crop's place, with its own surroundings: (side, side, C) float32 in [-1, 1].

        The shape's own source is taken where the mask was drawn from one; a procedural mask borrows a defect of its
        type, at random one of those that fit: a line is laid along a line, everything else is stretched so that second
        moments agree.
        inside: `instance_mask`, (side, side).
        """
        exemplar, map_x, map_y = self._mapped(instance, crop, inside, category=category, seed=seed)
        return _remapped(exemplar, map_x, map_y, inside, values=exemplar.place.values)

    def _mapped(
        self, instance: Instance, crop: Crop, inside: np.ndarray, *, category: str, seed: int
    ) -> tuple[Exemplar, np.ndarray, np.ndarray]:
        """The exemplar, and x and y in its picture of every pixel of the crop: (side, side) float32 each."""
        origin = crop.left - instance.left, crop.top - instance.top
        if instance.warp is not None and instance.warp.source in self.by_source:
            own = self.by_source[instance.warp.source]
            return own, *warp_coordinates(instance.warp, (crop.side, crop.side), origin=origin)
        rng = np.random.default_rng(seed)
        lots = self._lots(instance, category, rng)
        line = CentreLine.of(instance.mask)
        if line is not None and (lines := [lot for lot in lots if lot.line is not None]):
            real = [lot.line for lot in lines if lot.line is not None]
            chosen = _one_that_fits([mismatch(line, one) for one in real], rng)
            return lines[chosen], *line_coordinates(line, real[chosen], inside, origin=origin)
        warps = [moment_warp(instance.mask, lot) for lot in lots]
        chosen = _one_that_fits([_distortion(warp) for warp in warps], rng)
        return lots[chosen], *warp_coordinates(warps[chosen], (crop.side, crop.side), origin=origin)

    def _lots(self, instance: Instance, category: str, rng: np.random.Generator) -> list[Exemplar]:
        """At most `LOTS` training defects of the instance's type."""
        pair = category, instance.defect
        if pair not in self.by_pair:
            known = ", ".join("/".join(pair) for pair in sorted(self.by_pair)) or "none"
            raise ValueError(f"no training defect {'/'.join(pair)} to start from; there are: {known}")
        choices = self.by_pair[pair]
        return [choices[lot] for lot in rng.permutation(len(choices))[:LOTS]]


def _one_that_fits(distortions: Sequence[float], rng: np.random.Generator) -> int:
    """Of all that fit, not the best: the seed has to decide something, or all looks are one."""
    return int(rng.choice(np.flatnonzero(np.array(distortions) <= max(FITS, min(distortions) + FITS / 3))))


def _scales(exemplar: Exemplar, background: np.ndarray) -> tuple[ValueRange, ValueRange]:
    """What the two are made floats by before their light is compared: as they are stored where both are of one depth,
    so that -1 is black in both, else each by its own range."""
    if exemplar.image.dtype == background.dtype:
        whole = ValueRange(0.0, float(np.iinfo(background.dtype).max))
        return whole, whole
    return exemplar.place.values, ValueRange.of(background)


def _remapped(
    exemplar: Exemplar, map_x: np.ndarray, map_y: np.ndarray, inside: np.ndarray, *, values: ValueRange
) -> np.ndarray:
    """What the exemplar's picture shows at the places of the maps; `inside` the shape always the defect.

    values: what its pixels are made floats by.
    """
    place = exemplar.place
    x0, y0, x1, y1 = tight_box(exemplar.foreground)
    # of a large picture only the part that is looked at becomes floats
    columns = _looked_at(map_x, place.size[1], place.left + x0, place.left + x1)
    rows = _looked_at(map_y, place.size[0], place.top + y0, place.top + y1)
    left, top = max(columns.start, place.left), max(rows.start, place.top)
    looked_at = np.s_[top - place.top : rows.stop - place.top, left - place.left : columns.stop - place.left]
    map_x, map_y = map_x - left, map_y - top
    _mirror_into(exemplar.foreground[looked_at], map_x, map_y, inside)
    pixels = values.to_float(exemplar.image[looked_at])
    # linear interpolation flattens hair-thin lines more, but OpenCV's cubic never returns from one row or column
    method = cv2.INTER_CUBIC if min(pixels.shape[:2]) > 1 else cv2.INTER_LINEAR
    defect = cv2.remap(pixels, map_x, map_y, method, borderMode=cv2.BORDER_REFLECT_101)
    return defect.reshape(*inside.shape, -1)


def _surface(exemplar: Exemplar, map_x: np.ndarray, map_y: np.ndarray) -> np.ndarray:
    """Where the maps look at sound surface: (side, side) bool. Beyond the frame the defect itself is mirrored, and
    beside an object lies its ground: neither tells how the defect was lit."""
    place, (height, width) = exemplar.place, exemplar.foreground.shape
    column, row = np.rint(map_x).astype(int) - place.left, np.rint(map_y).astype(int) - place.top
    within = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    sound = exemplar.region_shown & ~exemplar.foreground
    found: np.ndarray = within & sound[row.clip(0, height - 1), column.clip(0, width - 1)]
    return found


def _looked_at(places: np.ndarray, size: int, first: int, last: int) -> slice:
    """The part of an axis of length `size` that holds first … last and all pixels near `places`, mirrored ones too."""
    low, high = min(int(np.floor(places.min())) - 2, first), max(int(np.ceil(places.max())) + 3, last)
    # what lies beyond the border is mirrored: it comes from as far inside
    low, high = min(low, 2 * size - high - 2), max(high, 2 - low)
    return slice(max(low, 0), min(high, size))


def moment_warp(mask: np.ndarray, exemplar: Exemplar) -> Warp:
    """The affine map that takes the mask's centre and second moments to those of the exemplar's largest part.

    Of all the maps that do, it turns least: the grain of a surface runs on in the defect. Only a shape that would be
    stretched out of its proportions by more than `STRETCH` is turned, towards the exemplar's longest line.
    """
    centre_from, spread_from = moments_of(mask)
    centre_to, spread_to = exemplar.moments
    linear = least_turn(spread_from, spread_to)
    matrix = np.column_stack([linear, centre_to - linear @ centre_from])
    a, b, c, d, e, f = (float(value) for value in matrix.ravel())
    return Warp(source=exemplar.source, matrix=(a, b, c, d, e, f))


def _distortion(warp: Warp) -> float:
    """How far from a plain scaling the warp is: 0 for one that neither turns nor stretches."""
    a, b, _, d, e, _ = warp.matrix
    linear = np.array([[a, b], [d, e]])
    return float(np.linalg.norm(linear / np.sqrt(np.linalg.det(linear)) - np.eye(2)))


def _mirror_into(foreground: np.ndarray, map_x: np.ndarray, map_y: np.ndarray, inside: np.ndarray) -> None:
    """Make every pixel `inside` the shape look at the defect: mirror, in place, what looks past its border by `EDGE`.

    A drawn crack does not follow the real one's bends; without this most of it would show sound surface.
    foreground: (H, W) bool. map_x, map_y: (side, side) float32, source pixels. inside: (side, side) bool.
    """
    height, width = foreground.shape
    background = np.pad(~foreground, 1, constant_values=True).astype(np.uint8)
    _, labels = cv2.distanceTransformWithLabels(
        background, cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL
    )
    spots = np.zeros((labels.max() + 1, 2), int)
    y, x = np.nonzero(background == 0)
    spots[labels[y, x]] = np.column_stack([x - 1, y - 1])

    def covered(at_x: np.ndarray, at_y: np.ndarray) -> np.ndarray:
        column, row = np.rint(at_x).astype(int), np.rint(at_y).astype(int)
        valid = (column >= 0) & (column < width) & (row >= 0) & (row < height)
        found: np.ndarray = valid & foreground[row.clip(0, height - 1), column.clip(0, width - 1)]
        return found

    rows, columns = np.nonzero(inside & ~covered(map_x, map_y))
    origin = np.column_stack([map_x[rows, columns], map_y[rows, columns]])
    column, row = np.rint(origin).astype(int).T
    nearest = spots[labels[row.clip(0, height - 1) + 1, column.clip(0, width - 1) + 1]]
    inwards = nearest - origin
    distance = np.hypot(*inwards.T)[:, None]
    mirrored = nearest + inwards * np.maximum(1 - EDGE / np.maximum(distance, EDGE), 0)
    mirrored = np.where(covered(*mirrored.T)[:, None], mirrored, nearest)
    map_x[rows, columns], map_y[rows, columns] = mirrored.T


def _lit(
    defect: np.ndarray, background: np.ndarray, foreground: np.ndarray, *, around_own: np.ndarray, around: np.ndarray
) -> np.ndarray:
    """The defect in the background's light. Where the surface beside it is k times as bright, so is its contrast: a
    surface reflects a share.

    around_own, around: (side, side) bool, the surface beside the defect in its own picture and in the background;
    where either shows none, the defect keeps the light it has.
    """
    defect = like_channels(defect, background.shape[2])
    if not (around_own.any() and around.any()):
        return defect
    left, top, right, bottom = tight_box(foreground)
    spread = max(MIN_SPREAD, SPREAD * max(right - left, bottom - top))
    wanted, found = light(background, around, spread=spread), light(defect, around_own, spread=spread)
    # -1 is black; the limits keep noise in near-black surroundings from blowing up
    gain = np.clip((wanted + 1) / np.maximum(found + 1, 1e-3), 0.5, 2.0)  # by channel, so that black stays black
    relit: np.ndarray = wanted + gain * (defect - found)
    return relit


def light(pixels: np.ndarray, around: np.ndarray, *, spread: float) -> np.ndarray:
    """How bright the surface is, or would be, at every pixel: (h, w, C) float32, of `pixels` in [-1, 1].

    The mean of the pixels `around`, (h, w) bool, that show surface, each with the weight 1 / (d² + spread²)² at the
    distance d (inverse distance weighting, Shepard 1968). So a large defect takes over a slope of the light.

    What is less than half as bright as the brighter quarter is the frame around it, a shadow or a gap. Taken for
    surface, it would make a defect from the rim of a part glow on another part.
    """
    brightness = pixels.mean(axis=2) + 1
    lit = around & (brightness >= np.quantile(brightness[around], 0.75) / 2)
    height, width = lit.shape
    step = -(-max(height, width) // LIGHT_SIDE)
    size = -(-width // step), -(-height // step)
    share = cv2.resize(lit.astype(np.float32), size, interpolation=cv2.INTER_AREA)
    sums = cv2.resize(np.where(lit[..., None], pixels, 0).astype(np.float32), size, interpolation=cv2.INTER_AREA)
    sums = sums.reshape(*share.shape, -1)
    places = np.argwhere(share > 0)
    everywhere = np.argwhere(np.ones_like(share, bool))
    squared = ((everywhere[:, None] - places[None]) ** 2).sum(axis=2)
    weights = (squared + (spread / step) ** 2) ** -2.0
    totals = weights @ share[tuple(places.T)]
    small = (weights @ sums[tuple(places.T)] / totals[:, None]).reshape(sums.shape).astype(np.float32)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR).reshape(height, width, -1)


def with_contrast_of(source: np.ndarray, drawn: np.ndarray, foreground: np.ndarray) -> np.ndarray:
    """`drawn` with the brightness and contrast that the defect has in `source`: mean and deviation inside the mask.

    One gain for all channels, so that no hue changes.

    A denoiser that has seen few defects draws towards their mean: lines come out paler than it started from, and a
    pale crack is what every mark on a sound surface looks like.

    source, drawn: (h, w, C) float in [-1, 1]. foreground: (h, w) bool. What is returned may leave [-1, 1] a little.
    """
    tone = source[foreground].mean(axis=0)
    wanted, found = source[foreground] - tone, drawn[foreground] - drawn[foreground].mean(axis=0)
    gain = np.clip(wanted.std() / max(float(found.std()), 1e-3), *CONTRAST_GAINS)
    kept = drawn.copy()
    kept[foreground] = tone + gain * found
    return kept


def like_channels(image: np.ndarray, channels: int) -> np.ndarray:
    """(h, w, C) as (h, w, channels): grey where the two differ."""
    return image if image.shape[2] == channels else np.repeat(image.mean(2, keepdims=True), channels, axis=2)


def instance_mask(instance: Instance, crop: Crop) -> np.ndarray:
    """The instance's foreground inside the crop, (side, side) bool."""
    return cut_mask(instance.mask, Crop(crop.left - instance.left, crop.top - instance.top, crop.side))
