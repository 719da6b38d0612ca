"""Poisson image editing (Pérez, Gangnet, Blake, SIGGRAPH 2003), for any bit depth."""

import numpy as np
from scipy import sparse
from scipy.sparse.linalg import splu

STEPS = ((0, 1), (0, -1), (1, 0), (-1, 0))
ANCHOR = 1e-6
"""Pull towards the source itself: decides the level where the foreground has no border, and nothing elsewhere."""


def poisson_blend(background: np.ndarray, source: np.ndarray, foreground: np.ndarray, *, mixed: bool) -> np.ndarray:
    """`background` with `source`'s gradients inside `foreground`, without a seam: (H, W, C) float64.

    Solves Σ_q (f_p - f_q) = Σ_q v_pq for all p inside, over their neighbours q inside the picture, with f_q the
    background outside (their eq. 7). v_pq = s_p - s_q; with `mixed`, the larger of that and the background's (eq. 13).

    background, source: (H, W, C) float. foreground: (H, W) bool.
    """
    height, width, channels = background.shape
    y, x = np.nonzero(foreground)
    number = np.full((height, width), -1)
    number[y, x] = np.arange(len(y))
    diagonal = np.full(len(y), ANCHOR)
    right = ANCHOR * source[y, x].astype(np.float64)
    links: list[tuple[np.ndarray, np.ndarray]] = []
    for dy, dx in STEPS:
        p = np.flatnonzero((y + dy >= 0) & (y + dy < height) & (x + dx >= 0) & (x + dx < width))
        here, there = (y[p], x[p]), (y[p] + dy, x[p] + dx)
        wanted, found = source[here] - source[there], background[here] - background[there]
        right[p] += np.where(np.abs(found) > np.abs(wanted), found, wanted) if mixed else wanted
        diagonal[p] += 1
        inside = number[there] >= 0
        links.append((p[inside], number[there][inside]))
        right[p[~inside]] += background[there][~inside]
    rows, columns = (np.concatenate(part) for part in zip(*links, strict=True))
    laplacian = sparse.diags(diagonal) - sparse.coo_matrix((np.ones(len(rows)), (rows, columns)), (len(y), len(y)))
    blended = background.astype(np.float64)
    blended[y, x] = splu(laplacian.tocsc()).solve(right).reshape(-1, channels)
    return blended
