"""K-means, the best of several k-means++ starts. S vectors of D numbers, K centres."""

import warnings

import numpy as np
from scipy.cluster.vq import kmeans2
from scipy.spatial.distance import cdist

STARTS = 20


def kmeans(vectors: np.ndarray, count: int, *, rng: np.random.Generator) -> np.ndarray:
    """(K, D) float64 centres with the least sum of squared distances; K is `count`, or as many as there are different
    vectors.

    vectors: (S, D) float, S ≥ 1.
    """
    vectors = vectors.astype(np.float64)
    count = min(count, len(np.unique(vectors, axis=0)))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "One of the clusters is empty")  # such a start loses against the others
        found = [kmeans2(vectors, count, iter=100, minit="++", rng=rng)[0] for _ in range(STARTS)]
    return min(found, key=lambda centres: inertia(vectors, centres))


def inertia(vectors: np.ndarray, centres: np.ndarray) -> float:
    """Sum of the squared distances of all vectors to their nearest centres."""
    return float(cdist(vectors, centres, "sqeuclidean").min(axis=1).sum())
