"""Centre and spread of a shape, and the map between two spreads that turns least. No torch."""

import numpy as np

STRETCH = 2.0
"""How much more a borrowed defect may be stretched in one direction than in the other before it is turned instead."""
TURNS = 31
"""Angles tried from none to the whole way: steps of at most 3 degrees."""


def moments_of(mask: np.ndarray, *, origin: tuple[int, int] = (0, 0)) -> tuple[np.ndarray, np.ndarray]:
    """Centre (x, y) and covariance (2, 2), in pixels and pixels².

    origin: x, y of the mask's upper left pixel.
    """
    y, x = np.nonzero(mask)
    points = np.stack([x + origin[0], y + origin[1]]).astype(np.float64)
    spread = np.cov(points) if points.shape[1] > 1 else np.zeros((2, 2))
    return points.mean(1), spread + 0.1 * np.eye(2)  # a single row of pixels still has a width


def least_turn(spread_from: np.ndarray, spread_to: np.ndarray) -> np.ndarray:
    """L (2, 2) with L A Lᵀ = B of covariances A and B, its turn as small as `STRETCH` allows.

    Without a turn it is the symmetric one, A^-½ (A^½ B A^½)^½ A^-½, the optimal transport of normal distributions.
    """
    turn = _direction(spread_to) - _direction(spread_from)
    turn = (turn + np.pi / 2) % np.pi - np.pi / 2  # a line has no head
    for angle in np.linspace(0, turn, TURNS):
        rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        root = _root(rotation @ spread_from @ rotation.T)
        inverse = np.linalg.inv(root)
        stretch = inverse @ _root(root @ spread_to @ root) @ inverse
        if np.linalg.cond(stretch) <= STRETCH:
            break
    linear: np.ndarray = stretch @ rotation
    return linear


def _direction(spread: np.ndarray) -> float:
    """Angle of the longest axis, in radians."""
    return float(np.arctan2(2 * spread[0, 1], spread[0, 0] - spread[1, 1]) / 2)


def _root(spread: np.ndarray) -> np.ndarray:
    """The symmetric square root of a positive definite (2, 2)."""
    area = np.sqrt(np.linalg.det(spread))
    root: np.ndarray = (spread + area * np.eye(2)) / np.sqrt(np.trace(spread) + 2 * area)  # Cayley-Hamilton
    return root
