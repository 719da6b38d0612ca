"""Masks as COCO run lengths and as polygons, and back. h, w: size of a mask (h, w) bool.

Corners: polygons along the pixels' edges, x to the right and y down from the upper left corner of the image.
Contours: polygons through the centres of a region's border pixels, as OpenCV draws and fills them.
"""

import cv2
import numpy as np
from scipy.spatial import cKDTree

from fastsynth.errors import shown

MAX_COORDINATE = 1_000_000
"""Of a polygon that is read, in pixels."""
MAX_CROSSINGS = 20_000_000
"""Rows that the edges of one polygon may cross, each counted once per edge: memory and time grow with them."""


def encode_rle(mask: np.ndarray) -> str:
    """COCO's compressed run lengths: columns one after the other, first run is background; exact."""
    flat = np.concatenate(([False], mask.T.ravel(), [False]))
    edges = np.flatnonzero(flat[1:] != flat[:-1])
    runs = np.diff(np.concatenate(([0], edges, [mask.size])))
    if mask.size and mask.T.ravel()[-1]:
        runs = runs[:-1]
    text = []
    for number, run in enumerate(runs.tolist()):
        value = run - int(runs[number - 2]) if number > 2 else run
        while True:
            bits = value & 31
            value >>= 5
            more = value != (-1 if bits & 16 else 0)
            text.append(chr(bits + 32 * more + 48))
            if not more:
                break
    return "".join(text)


def decode_rle(counts: str | list[int], *, size: tuple[int, int]) -> np.ndarray:
    """(h, w) bool from COCO run lengths, compressed or not. Raises ValueError when they do not fill the size."""
    runs = _read_runs(counts) if isinstance(counts, str) else counts
    if not isinstance(runs, list) or any(type(run) is not int or run < 0 for run in runs):
        raise ValueError("run lengths must be whole numbers of 0 and more; export the file again")
    if sum(runs) != size[0] * size[1]:
        raise ValueError(
            f"run lengths hold {shown(sum(runs))} pixels, wanted {size[0]}×{size[1]}; export the file again"
        )
    values = np.arange(len(runs)) % 2 == 1
    return np.repeat(values, runs).reshape(size[1], size[0]).T


def _read_runs(text: str) -> list[int]:
    runs: list[int] = []
    value = shift = 0
    for character in text.encode("ascii", "replace"):
        bits = character - 48
        if not 0 <= bits < 64 or shift > 60:
            raise ValueError(f"run lengths hold the character {chr(character)!r}; export the file again")
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            if bits & 16:
                value -= 1 << shift
            runs.append(value + runs[-2] if len(runs) > 2 else value)
            value = shift = 0
    return runs


def corner_polygons(mask: np.ndarray) -> list[np.ndarray]:
    """One (n, 2) int polygon for each region (4 neighbours). Filled by the even-odd rule they are the mask, exactly.

    A hole is joined to its region by a cut of no width, there and back.
    """
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=4)
    polygons = []
    for label in range(1, count):
        x, y, width, height = (int(v) for v in stats[label, :4])
        loops = _corner_loops(labels[y : y + height, x : x + width] == label)
        start = loops[0][:1]
        cuts = [part for loop in loops[1:] for part in (loop, loop[:1], start)]
        parts = [loops[0], start, *cuts] if cuts else [loops[0]]
        polygons.append(np.concatenate(parts) + np.array([x, y]))
    return polygons


def _corner_loops(mask: np.ndarray) -> list[np.ndarray]:
    """Closed rectilinear (n, 2) loops around the mask; a corner where two pixels touch counts twice."""
    m = np.pad(mask, 1).astype(np.int8)
    turn = m[:-1, :-1] - m[:-1, 1:] - m[1:, :-1] + m[1:, 1:]  # ±1 at a corner, ±2 where two meet, else 0
    y, x = np.nonzero(turn)
    repeats = np.abs(turn[y, x])
    y, x = np.repeat(y, repeats), np.repeat(x, repeats)
    across, down = np.lexsort((x, y)), np.lexsort((y, x))
    links = []
    for order in (across, down):  # along a line of the grid, corners come in pairs: an edge begins, an edge ends
        link = np.empty(len(order), np.intp)
        link[order[::2]], link[order[1::2]] = order[1::2], order[::2]
        links.append(link.tolist())
    loops, left = [], [True] * len(x)
    for start in range(len(x)):
        loop, corner = [], start
        while left[corner]:
            other = links[0][corner]
            left[corner] = left[other] = False
            loop += [corner, other]
            corner = links[1][other]
        if loop:
            loops.append(np.stack([x[loop], y[loop]], axis=1))
    return loops


def contour_polygons(mask: np.ndarray) -> list[np.ndarray]:
    """One (n ≥ 3, 2) int polygon through border pixels for each region (8 neighbours).

    A hole is joined by a line to the nearest place of the polygon so far: filled with its border, the
    polygon is the region, up to pixels on those lines. Without holes it is exact.
    """
    contours, tree = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    polygons = []
    for number, contour in enumerate(contours):
        if tree[0][number][3] >= 0:  # a hole: comes with its region
            continue
        outline = contour[:, 0]
        holes = [contours[i][:, 0] for i in np.flatnonzero(tree[0][:, 3] == number).tolist()]
        while holes:
            outline, holes = _join_nearest(outline, holes)
        polygons.append(np.concatenate([outline] * 3)[:3] if len(outline) < 3 else outline)
    return polygons


def _join_nearest(outline: np.ndarray, holes: list[np.ndarray]) -> tuple[np.ndarray, list[np.ndarray]]:
    nearest = cKDTree(outline)
    found = [nearest.query(hole) for hole in holes]
    number = int(np.argmin([distances.min() for distances, _ in found]))
    distances, places = found[number]
    first = int(distances.argmin())
    place, hole = int(places[first]), np.roll(holes[number], -first, axis=0)
    joined = np.concatenate([outline[: place + 1], hole, hole[:1], outline[place:]])
    return joined, holes[:number] + holes[number + 1 :]


def fill_polygon(points: np.ndarray, *, size: tuple[int, int]) -> np.ndarray:
    """(h, w) bool: pixels whose centre lies in the (n, 2) polygon by the even-odd rule; what is outside is cut off.

    Raises ValueError for coordinates beyond MAX_COORDINATE, and for edges that cross more rows than MAX_CROSSINGS.
    """
    height, width = size
    if not (np.abs(points) <= MAX_COORDINATE).all():
        raise ValueError(f"a polygon has a coordinate beyond ±{MAX_COORDINATE:,}; export the file again")
    (x0, y0), (x1, y1) = points.T, np.roll(points, -1, axis=0).T
    top, bottom = np.clip(np.ceil(np.sort([y0, y1], axis=0) - 0.5), 0, height).astype(int)
    crossings = bottom - top
    if (total := int(crossings.sum())) > MAX_CROSSINGS:
        raise ValueError(f"a polygon's edges cross {total:,} rows; at most {MAX_CROSSINGS:,} are read, simplify it")
    flips = np.zeros((height, width + 1), np.uint8)
    edge = np.repeat(np.arange(len(points)), crossings)
    row = np.arange(total) + np.repeat(top - np.concatenate(([0], np.cumsum(crossings)[:-1])), crossings)
    x = x0[edge] + (row + 0.5 - y0[edge]) * (x1 - x0)[edge] / (y1 - y0)[edge]
    np.bitwise_xor.at(flips, (row, np.clip(np.ceil(x - 0.5), 0, width).astype(int)), 1)
    return np.bitwise_xor.accumulate(flips, axis=1)[:, :width].astype(bool)
