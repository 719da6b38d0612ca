"""Where a shape may go: the object's region, and a random legal position in it.

The search correlates shape and region at reduced resolution (at most SEARCH_SIDE pixels) and checks the chosen
positions at full resolution, so that a 12-megapixel image costs milliseconds.
"""

import cv2
import numpy as np

from fastsynth.images import to_uint8
from fastsynth.layouts.surroundings import SIDE

SEARCH_SIDE = SIDE
"""Longer side of the image during the search; up to it the search is exact."""
TRIES = 64
"""Positions checked at full resolution before the answer is no."""
REGION_SIDE = 512
"""Longer side of the image while its object is looked for."""
SEPARATION = 0.8
"""Share of the grey variance between Otsu's two classes. One Gaussian hump has 2/π = 0.64, an even spread 0.75."""
BORDER_SHARE = 0.9
"""Share of the frame's border that must be background; a texture that fills the frame has no such border."""
MIN_OBJECT_SHARE = 0.05
"""Smaller things are spots on a texture; a lying screw covers about 8 % of its image."""


def object_region(image: np.ndarray) -> np.ndarray:
    """Where the object is: (H, W) bool. All of the image, unless it plainly shows an object on a plain background.

    image: (H, W, 1 or 3) uint8 or uint16. Otsu's threshold (Otsu 1979) on how far the smoothed image is from the
    frame's border, brighter, darker or of another colour; what is near makes up the border. Holes of the object
    belong to it.
    """
    height, width = image.shape[:2]
    everything = np.ones((height, width), bool)
    apart = _apart_from_border(image)
    threshold, split = cv2.threshold(apart, 0, 1, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
    if 1 - _border(split).mean() < BORDER_SHARE or _separation(apart, threshold) < SEPARATION:
        return everything
    found = _filled(split > 0)
    if found.mean() < MIN_OBJECT_SHARE:
        return everything
    return cv2.resize(found.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST) > 0


def place(
    shape: np.ndarray,
    region: np.ndarray,
    *,
    rng: np.random.Generator,
    margin: int,
    min_inside: float,
    occupied: np.ndarray | None = None,
    near: tuple[float, float] | None = None,
    jitter: float = 0.0,
    sides: frozenset[str] = frozenset(),
    preference: np.ndarray | None = None,
) -> tuple[int, int] | None:
    """A random legal position (left, top) of `shape`'s upper left pixel, or None when there is none.

    shape: (h, w) bool, tight. region: (H, W) bool.
    Legal: all of the shape lies in the image, at least `min_inside` of its pixels lie in the region and `margin`
    pixels away from the region's border, and none on `occupied` (H, W) bool.
    near: where the shape's centre should be, x, y as shares of the image, scattered by a normal distribution of
    width `jitter` (same unit) as far as legal positions allow; 0 takes the closest. None: anywhere, evenly.
    sides: sides of the image the shape must touch, of "left", "top", "right", "bottom".
    preference: log of how much more often than others a position is drawn, by the block that the shape's centre lies
    in: (H', W'), blocks as in `surroundings.Brightness`. None: all alike.
    Above SEARCH_SIDE pixels a position may be missed that fits more tightly than one step of the search.
    """
    (height, width), (h, w) = region.shape, shape.shape
    if h > height or w > width:
        return None
    allowed = _eroded(region, margin)
    wanted = int(np.ceil(min_inside * np.count_nonzero(shape) - 1e-9))
    step = -(-max(height, width) // SEARCH_SIDE)
    rows, columns = np.nonzero(_promising(shape, allowed, occupied, step=step, wanted=wanted))
    left = np.minimum(columns * step + rng.integers(0, step, len(columns)), width - w)
    top = np.minimum(rows * step + rng.integers(0, step, len(rows)), height - h)
    left, top = _touching(left, top, limits=(width - w, height - h), step=step, sides=sides)
    # Gumbel noise turns the arg max into a draw with probabilities ∝ exp(score)
    score = rng.gumbel(size=len(left))
    if near is not None:
        offset_x = (left + w / 2) / width - near[0]
        offset_y = (top + h / 2) / height - near[1]
        score = score - (offset_x**2 + offset_y**2) / (2 * max(jitter, 1e-6) ** 2)
    if preference is not None:
        score = score + preference[(top + h // 2) // step, (left + w // 2) // step]
    for _ in range(min(TRIES, len(score))):
        best = score.argmax()
        score[best] = -np.inf
        x, y = int(left[best]), int(top[best])
        window = slice(y, y + h), slice(x, x + w)
        free = occupied is None or not (occupied[window] & shape).any()
        if free and np.count_nonzero(allowed[window] & shape) >= wanted:
            return x, y
    return None


def _promising(
    shape: np.ndarray, allowed: np.ndarray, occupied: np.ndarray | None, *, step: int, wanted: int
) -> np.ndarray:
    """Positions worth a closer look, in units of `step`: the legal ones if it is 1, a little too many otherwise."""
    kernel = _reduced(shape, step)
    # counts are whole numbers when step is 1: half a pixel covers the rounding of the Fourier transform
    slack = 0.5 if step == 1 else max(0.05 * float(kernel.sum()), 0.5 / step**2)
    found = _correlate(_reduced(allowed, step), kernel) >= wanted / step**2 - slack
    if occupied is not None and occupied.any():
        found &= _correlate(_reduced(occupied, step), kernel) < slack
    return found


def _touching(
    left: np.ndarray, top: np.ndarray, *, limits: tuple[int, int], step: int, sides: frozenset[str]
) -> tuple[np.ndarray, np.ndarray]:
    """The positions within a search step of all `sides`, moved onto them."""
    positions = {"x": left, "y": top}
    for side in sides:
        axis, goal = {"left": ("x", 0), "top": ("y", 0), "right": ("x", limits[0]), "bottom": ("y", limits[1])}[side]
        close = np.abs(positions[axis] - goal) < 2 * step - 1
        positions = {name: values[close] for name, values in positions.items()}
        positions[axis] = np.full_like(positions[axis], goal)
    return positions["x"], positions["y"]


def _correlate(image: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Σ image · kernel at every position where the kernel lies inside: (H - h + 1, W - w + 1) float32."""
    return cv2.matchTemplate(image, kernel, cv2.TM_CCORR)


def _reduced(mask: np.ndarray, step: int) -> np.ndarray:
    """Mean over step×step blocks, zeros beyond the right and lower end: float32 in [0, 1]."""
    height, width = mask.shape
    padded = np.pad(mask, ((0, -height % step), (0, -width % step))).astype(np.float32)
    size = padded.shape[1] // step, padded.shape[0] // step
    return cv2.resize(padded, size, interpolation=cv2.INTER_AREA)


def _eroded(region: np.ndarray, margin: int) -> np.ndarray:
    """The pixels at least `margin` away from the outside; beyond the image is outside."""
    if margin == 0:
        return region
    kernel = np.ones((2 * margin + 1, 2 * margin + 1), np.uint8)
    return cv2.erode(region.astype(np.uint8), kernel, borderType=cv2.BORDER_CONSTANT, borderValue=0) > 0


def _apart_from_border(image: np.ndarray) -> np.ndarray:
    """(h, w) uint8, at most REGION_SIDE pixels long, smoothed: the largest difference of a channel to the border's
    median, so that an object of several tones is one."""
    height, width = image.shape[:2]
    factor = min(1.0, REGION_SIDE / max(height, width))
    size = max(1, round(width * factor)), max(1, round(height * factor))
    small = to_uint8(cv2.resize(image, size, interpolation=cv2.INTER_AREA).reshape(size[1], size[0], -1))
    smooth = cv2.GaussianBlur(small, (0, 0), 2).reshape(small.shape).astype(np.int16)
    apart: np.ndarray = np.abs(smooth - np.median(_border(smooth), axis=0).astype(np.int16)).max(axis=2)
    return apart.astype(np.uint8)


def _border(picture: np.ndarray) -> np.ndarray:
    """The pixels along the four sides, (N, ...)."""
    return np.concatenate([picture[0], picture[-1], picture[:, 0], picture[:, -1]])


def _separation(values: np.ndarray, threshold: float) -> float:
    """Variance between the two classes over the whole variance, 0..1 (Otsu's η)."""
    low, high = values[values <= threshold].astype(float), values[values > threshold].astype(float)
    if low.size == 0 or high.size == 0:
        return 0.0
    share = low.size / values.size
    return float(share * (1 - share) * (low.mean() - high.mean()) ** 2 / values.var())


def _filled(found: np.ndarray) -> np.ndarray:
    """The pieces of an (H, W) bool mask above a tenth of the largest, holes filled."""
    contours, _ = cv2.findContours(found.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    areas = [cv2.contourArea(contour) for contour in contours]
    kept = [contour for contour, area in zip(contours, areas, strict=True) if area >= 0.1 * max(areas)]
    filled = np.zeros(found.shape, np.uint8)
    cv2.drawContours(filled, kept, -1, 1, thickness=cv2.FILLED)
    return filled > 0
