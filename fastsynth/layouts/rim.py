"""Does a type of defect keep to the rim? Chipped edges do, and a chip in the middle is plainly a fake."""

from collections.abc import Sequence

import numpy as np

from fastsynth.layouts.parts import RealPart

ERRORS = 2
"""Standard errors by which the mean rank must lie below ½."""


def keeps_to_rim(parts: Sequence[RealPart]) -> bool:
    """Whether parts lie nearer to the frame than parts anywhere would, beyond chance.

    By the mean of their ranks, which for parts anywhere is ½ with a standard error of √(1/12 N), N the number of
    pieces: those of one group, or of one mask without a group, count as one, by their mean rank. Parts that the frame
    cuts have no say: how they lay on it is kept anyhow.
    """
    of_piece: dict[tuple[bool, str], list[float]] = {}
    for part in parts:
        if not part.sides:
            of_piece.setdefault(part.piece, []).append(rim_rank(part))
    ranks = [np.mean(found) for found in of_piece.values()]
    return bool(ranks and np.mean(ranks) < 0.5 - ERRORS / np.sqrt(12 * len(ranks)))


def rim_rank(part: RealPart) -> float:
    """Share of the part's positions in its frame that lie nearer to the frame, those as near counting half: 0 to 1."""
    (height, width), (frame_height, frame_width) = part.foreground.shape, part.frame
    columns, rows = frame_width - width + 1, frame_height - height + 1
    gap = min(part.left, columns - 1 - part.left, part.top, rows - 1 - part.top)
    as_near, nearer = (
        1 - max(columns - 2 * each, 0) * max(rows - 2 * each, 0) / (columns * rows) for each in (gap + 1, gap)
    )
    return (as_near + nearer) / 2
