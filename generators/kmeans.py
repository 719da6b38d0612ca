"""K-means (Lloyd 1982) with k-means++ starts (Arthur and Vassilvitskii 2007). S vectors of D numbers, K centres."""

from typing import NamedTuple

import numpy as np
from scipy.spatial.distance import cdist

STARTS = 20


class Clustering(NamedTuple):
    """centres: (K, D) float. assignment: (S,) int, the nearest centre. inertia: sum of squared distances to it."""

    centres: np.ndarray
    assignment: np.ndarray
    inertia: float


def kmeans(vectors: np.ndarray, count: int, *, rng: np.random.Generator) -> Clustering:
    """The best of twenty starts; at most as many centres as there are different vectors.

    vectors: (S, D) float, S ≥ 1.
    """
    vectors = vectors.astype(np.float64)
    count = min(count, len(np.unique(vectors, axis=0)))
    runs = [lloyd(vectors, spread_start(vectors, count, rng=rng)) for _ in range(STARTS)]
    return min(runs, key=lambda run: run.inertia)


def spread_start(vectors: np.ndarray, count: int, *, rng: np.random.Generator) -> np.ndarray:
    """(count, D): vectors drawn one by one, each with probability ∝ its squared distance to those drawn before."""
    chosen = [int(rng.integers(len(vectors)))]
    while len(chosen) < count:
        squared = cdist(vectors, vectors[chosen], "sqeuclidean").min(axis=1)
        chosen.append(int(rng.choice(len(vectors), p=squared / squared.sum())))
    return vectors[chosen]


def lloyd(vectors: np.ndarray, centres: np.ndarray, *, max_iterations: int = 100) -> Clustering:
    """Assign and average until nothing moves. A centre that lost all its vectors stays where it is."""
    for _ in range(max_iterations):
        assignment = cdist(vectors, centres, "sqeuclidean").argmin(axis=1)
        members = [vectors[assignment == k] for k in range(len(centres))]
        moved = np.stack([own.mean(axis=0) if len(own) else old for own, old in zip(members, centres, strict=True)])
        if np.allclose(moved, centres, rtol=0, atol=1e-12):
            break
        centres = moved
    squared = cdist(vectors, centres, "sqeuclidean")
    return Clustering(centres, squared.argmin(axis=1), float(squared.min(axis=1).sum()))
