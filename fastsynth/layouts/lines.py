"""Line-like shapes by their centre line: how far along it and how far beside it a pixel lies. No torch.

A made-up crack bends otherwise than any real one. Stretched onto it as a whole, a real crack leaves it after a few
pixels; laid along it, it follows every bend.

n points of a centre line, P pixels.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Self

import cv2
import numpy as np
from scipy.ndimage import gaussian_filter1d
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import dijkstra
from scipy.spatial import cKDTree
from skimage.morphology import skeletonize

from fastsynth.layouts.procedural import LONG_LINE

MOST = 0.9
"""Share of a mask that its largest piece has to be: other pieces lie beside its line, where no defect is."""
LINE_LIKE = 4.0
"""Length of a centre line, in mean widths of its shape, from which on the shape is a line."""
WIDEST = 12.0
"""Mean width of a line in pixels, with what annotators leave around it; more in proportion for lines longer than
`LONG_LINE`. What is wider shows the surface inside, whose weave or grain must not bend."""
STRETCH = 2.0
"""How much more a line may be stretched lengthwise than across before it is laid to and fro."""
BROADEST = 100.0
"""Pixels across the broadest place of a line: skeletons of what is broader take long."""
LONGEST = 2.0
"""Length of a line that is looked at, in diagonals of its box: what is no line is seldom skeletonised."""
TANGLED = 4.0
"""Pixels of a skeleton, in diagonals of its box, from which on it is a net and no line."""
MOST_BRANCHES = 32
"""Ways that a skeleton may have beside each other; with more it is a net, too."""
WIDTHS = 0.5, 2.0
"""What a line may be made narrower or wider by."""
NEAR = 8
"""Pixels beside a drawn line where it matters what the real one shows: its light is looked at there."""
SHORTEST = 8
"""Pixels of a centre line."""
NEIGHBOURS = (0, 1), (1, -1), (1, 0), (1, 1)
"""Half of the eight: row and column steps."""


@dataclass(frozen=True, eq=False)
class CentreLine:
    """The trunk of a line-like shape, from one end to the other, and its branches behind it.

    points: (n, 2) float64, x and y in pixels, at most two pixels apart on the trunk and on every branch.
    along: (n,) float64, way from the first end in pixels; a branch goes on from where it leaves the trunk.
    tangents: (n, 2) float64, unit vectors. halves: (n,) float64, half widths in pixels.
    trunk: how many of the points are the trunk's.
    """

    points: np.ndarray
    along: np.ndarray
    tangents: np.ndarray
    halves: np.ndarray
    trunk: int

    @classmethod
    def of(cls, mask: np.ndarray, *, origin: tuple[int, int] = (0, 0)) -> Self | None:
        """That of the largest piece of `mask`, (h, w) bool, not empty. None if it is no line, or not nearly all.

        origin: x, y of the mask's upper left pixel.
        """
        _, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
        largest = 1 + int(stats[1:, cv2.CC_STAT_AREA].argmax())
        left, top, columns, rows, area = (int(value) for value in stats[largest])
        diagonal = float(np.hypot(columns, rows))
        could_be = _is_line(area, LONGEST * diagonal, drawn=TANGLED * diagonal)
        if area < MOST * np.count_nonzero(mask) or not could_be:
            return None
        piece = np.pad(labels[top : top + rows, left : left + columns] == largest, 1)
        distance = cv2.distanceTransform(piece.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5)
        if 2 * distance.max() > BROADEST:
            return None
        skeleton = skeletonize(piece)
        if np.count_nonzero(skeleton) > TANGLED * diagonal:
            return None
        ways = _ways(skeleton, distance)
        if len(ways[0]) < SHORTEST or len(ways) > MOST_BRANCHES:
            return None
        line = cls(*_smooth(ways[0], distance, both_ends=True))
        for way in ways[1:]:
            line = line._with_branch(*_smooth(way, distance, both_ends=False)[:-1])
        if not _is_line(area, line.length, drawn=line.length + sum(len(way) for way in ways[1:])):
            return None
        shift = np.array([left - 1 + origin[0], top - 1 + origin[1]])
        return replace(line, points=line.points + shift)

    def _with_branch(self, points: np.ndarray, along: np.ndarray, tangents: np.ndarray, halves: np.ndarray) -> Self:
        apart = np.linalg.norm(self.points - points[0], axis=1)
        along = along + self.along[apart.argmin()] + apart.min()
        return replace(
            self,
            points=np.concatenate([self.points, points]),
            along=np.concatenate([self.along, along]),
            tangents=np.concatenate([self.tangents, tangents]),
            halves=np.concatenate([self.halves, halves]),
        )

    @property
    def length(self) -> float:
        """Of the trunk, in pixels."""
        return float(self.along[self.trunk - 1])

    @property
    def half_width(self) -> float:
        """Of the trunk on average, in pixels."""
        return float(self.halves[: self.trunk].mean())

    @property
    def chord(self) -> np.ndarray:
        """(2,) from the trunk's first end to its last."""
        chord: np.ndarray = self.points[self.trunk - 1] - self.points[0]
        return chord

    @cached_property
    def _tree(self) -> cKDTree:
        return cKDTree(self.points)

    def locate(self, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of pixels (P, 2), x and y: way along the line, way beside it to the left or right, and the half width there,
        (P,) each."""
        nearest = self._tree.query(pixels)[1]
        apart, (tx, ty) = pixels - self.points[nearest], self.tangents[nearest].T
        along = self.along[nearest] + apart[:, 0] * tx + apart[:, 1] * ty
        return along, apart[:, 1] * tx - apart[:, 0] * ty, self.halves[nearest]

    def at(self, along: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Points (P, 2), unit tangents (P, 2) and half widths (P,) of the trunk, for ways (P,) in 0 … `length`."""
        part = slice(self.trunk)
        columns = *self.points[part].T, *self.tangents[part].T, self.halves[part]
        x, y, tx, ty, halves = (np.interp(along, self.along[part], column) for column in columns)
        tangents = np.stack([tx, ty], axis=1)
        return np.stack([x, y], axis=1), tangents / np.maximum(np.linalg.norm(tangents, axis=1)[:, None], 1e-9), halves

    def turned_round(self) -> "CentreLine":
        """The trunk from its last end to its first."""
        part = slice(self.trunk - 1, None, -1)
        return CentreLine(
            self.points[part], self.length - self.along[part], -self.tangents[part], self.halves[part], self.trunk
        )


def laid_along(drawn: CentreLine, real: CentreLine, pixels: np.ndarray) -> np.ndarray:
    """Where on the real line the pixels (P, 2) of the drawn one look: (P, 2), x and y in its picture.

    Both are walked from end to end in the direction that turns less. What is too short for the drawn line even when it
    is `STRETCH`-ed is walked to and fro. Beside the line, half width corresponds to half width.
    """
    if drawn.chord @ real.chord < 0:
        real = real.turned_round()
    along, beside, half = drawn.locate(pixels)
    across = float(np.clip(real.half_width / drawn.half_width, *WIDTHS))
    lengthwise = float(np.clip(real.length / drawn.length, across / STRETCH, across * STRETCH))
    on_line = along.clip(0, drawn.length)
    walked = lengthwise * on_line
    if lengthwise * drawn.length > real.length:
        # at its very ends a line shows what annotators leave around it: turned there it would have gaps
        inset = min(2 * real.half_width, real.length / 4)
        inner = real.length - 2 * inset
        turned = inset + inner - np.abs(inner - (walked - inset) % (2 * inner))
        walked = np.where(walked < inset, walked, turned)
    points, tangents, real_half = real.at(walked)
    beside = beside * np.clip(real_half / half, *WIDTHS)
    beyond = across * (along - on_line)
    normals = np.stack([-tangents[:, 1], tangents[:, 0]], axis=1)
    found: np.ndarray = points + beside[:, None] * normals + beyond[:, None] * tangents
    return found


def line_coordinates(
    drawn: CentreLine, real: CentreLine, inside: np.ndarray, *, origin: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """`masks.warp_coordinates` of a real line that is laid along the drawn one: x and y, (h, w) float32 each.

    inside: (h, w) bool, the drawn shape. More than `NEAR` pixels beside it all look at the middle of the real line.
    origin: x, y of the upper left pixel, as the drawn line counts them.
    """
    near = cv2.dilate(inside.astype(np.uint8), np.ones((2 * NEAR + 1, 2 * NEAR + 1), np.uint8)) > 0
    y, x = np.nonzero(near)
    map_x, map_y = (np.full(inside.shape, middle, np.float32) for middle in real.at(np.array([real.length / 2]))[0][0])
    map_x[y, x], map_y[y, x] = laid_along(drawn, real, np.stack([x, y], axis=1) + np.array(origin, np.float64)).T
    return map_x, map_y


def mismatch(drawn: CentreLine, real: CentreLine) -> float:
    """How much the real line is turned and stretched to lie along the drawn one: 0 for a plain scaling.

    About what the norm of an affine map's deviation from a scaling would be: 12 degrees, or half as long again, is 0.3.
    """
    cosine = abs(drawn.chord @ real.chord) / max(float(np.linalg.norm(drawn.chord) * np.linalg.norm(real.chord)), 1e-9)
    across = float(np.clip(real.half_width / drawn.half_width, *WIDTHS))
    stretch = np.log(real.length / drawn.length / across)
    return float(np.hypot(np.sqrt(2) * np.arccos(min(cosine, 1.0)), stretch / np.sqrt(2)))


def _is_line(area: int, length: float, *, drawn: float) -> bool:
    """length: of the trunk. drawn: of trunk and branches together."""
    width = area / drawn
    return length >= LINE_LIKE * width and width <= WIDEST * max(1.0, length / LONG_LINE)


def _ways(skeleton: np.ndarray, distance: np.ndarray) -> list[np.ndarray]:
    """Pixels (n, 2), x and y, of the longest of all shortest ways through a skeleton, then of its branches.

    distance: (h, w), to the border. A branch no longer than the shape is wide there is a dent of its outline.
    """
    rows, columns = np.nonzero(skeleton)
    graph = _graph(skeleton, rows, columns)
    first = int(dijkstra(graph, indices=0).argmax())
    reached, before = dijkstra(graph, indices=first, return_predecessors=True)
    pixels, seen = np.column_stack([columns, rows]).astype(np.float64), np.zeros(len(rows), bool)
    found: list[np.ndarray] = []
    for end in np.argsort(-reached, kind="stable"):
        node, way = int(end), []
        while node >= 0 and not seen[node]:
            seen[node] = True
            way.append(node)
            node = int(before[node])
        if way and (not found or len(way) > max(1, 2 * distance[rows[way[-1]], columns[way[-1]]])):
            found.append(pixels[way[::-1]])
        if len(found) > MOST_BRANCHES:
            break
    return found


def _graph(skeleton: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> csr_matrix:
    """Of the skeleton's pixels: neighbours and how far apart their centres are."""
    number = np.full(np.add(skeleton.shape, 2), -1)
    number[rows + 1, columns + 1] = np.arange(len(rows))
    pairs, lengths = [], []
    for down, right in NEIGHBOURS:
        other = number[rows + 1 + down, columns + 1 + right]
        here = np.flatnonzero(other >= 0)
        pairs.append(np.stack([here, other[here]]))
        lengths.append(np.full(len(here), np.hypot(down, right)))
    start, end = np.concatenate(pairs, axis=1)
    length = np.concatenate(lengths)
    both = np.concatenate([start, end]), np.concatenate([end, start])
    return csr_matrix((np.concatenate([length, length]), both), shape=(len(rows), len(rows)))


def _smooth(
    pixels: np.ndarray, distance: np.ndarray, *, both_ends: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, int]:
    """Points, ways along, tangents, half widths and number of points of a way over pixels, without their steps.

    distance: (h, w), to the border. A skeleton turns into a corner half a width before its shape ends: the last end, or
    both, are cut there and go on straight.
    """
    columns, rows = pixels.astype(int).T
    halves = np.maximum(distance[rows, columns] - 0.5, 0.5).astype(np.float64)
    corner = int(np.ceil(halves.mean()))
    if len(pixels) > 4 * corner:
        kept = slice(corner if both_ends else 0, len(pixels) - corner)
        pixels, halves = pixels[kept], halves[kept]
    else:
        corner = 0
    sigma = max(1.5, float(halves.mean()))
    beyond = min(len(pixels) - 1, int(4 * sigma))
    # mirrored about its ends, a way keeps them where they are
    mirrored = np.pad(pixels, ((beyond, beyond), (0, 0)), mode="reflect", reflect_type="odd")
    points = gaussian_filter1d(mirrored, sigma, axis=0)[beyond : beyond + len(pixels)]
    halves = gaussian_filter1d(halves, sigma, mode="nearest")
    tangents = np.gradient(points, axis=0)
    tangents /= np.maximum(np.linalg.norm(tangents, axis=1)[:, None], 1e-9)
    steps = np.arange(1, corner + int(np.ceil(halves.mean())) + 1, dtype=np.float64)
    before = -steps[::-1] if both_ends else steps[:0]
    points = np.concatenate(
        [points[0] + before[:, None] * tangents[0], points, points[-1] + steps[:, None] * tangents[-1]]
    )
    longer = len(before), len(steps)
    tangents, halves = np.pad(tangents, (longer, (0, 0)), mode="edge"), np.pad(halves, longer, mode="edge")
    along = np.concatenate([[0.0], np.linalg.norm(np.diff(points, axis=0), axis=1).cumsum()])
    return points, along, tangents, halves, len(points)
