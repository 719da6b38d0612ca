"""Ranks against counting all positions; who keeps to the rim and who does not."""

import itertools
from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import pytest

from fastsynth.layouts.parts import RealPart
from fastsynth.layouts.rim import keeps_to_rim, rim_rank


def part(left: int, top: int, *, shape: tuple[int, int] = (3, 5), frame: tuple[int, int] = (20, 31)) -> RealPart:
    return RealPart("m.png", "chip", np.ones(shape, bool), left, top, frame)


def on_masks_of_their_own(parts: Iterable[RealPart], *, group: str | None = None) -> list[RealPart]:
    return [replace(p, source=f"{number}.png", group=group) for number, p in enumerate(parts)]


def gap(p: RealPart) -> int:
    (height, width), (rows, columns) = p.foreground.shape, p.frame
    return min(p.left, p.top, columns - width - p.left, rows - height - p.top)


def everywhere(**size: tuple[int, int]) -> list[RealPart]:
    (h, w), (height, width) = part(0, 0, **size).foreground.shape, part(0, 0, **size).frame
    return [part(x, y, **size) for x, y in itertools.product(range(width - w + 1), range(height - h + 1))]


@pytest.mark.parametrize(
    ("shape", "frame"), [((3, 5), (20, 31)), ((1, 1), (9, 9)), ((20, 4), (20, 30)), ((4, 4), (4, 4))]
)
def test_the_rank_is_the_share_of_positions_nearer_to_the_frame(shape, frame):
    parts = everywhere(shape=shape, frame=frame)
    gaps = np.array([gap(p) for p in parts])
    for p in parts[:: max(1, len(parts) // 40)]:
        wanted = (gaps < gap(p)).mean() + (gaps == gap(p)).mean() / 2
        assert rim_rank(p) == pytest.approx(wanted)


def test_parts_anywhere_are_taken_for_rim_dwellers_as_rarely_as_two_errors_say():
    free, rng = [p for p in everywhere() if not p.sides], np.random.default_rng(0)
    picks = rng.integers(len(free), size=(500, 12))
    drawn = [keeps_to_rim(on_masks_of_their_own(free[k] for k in pick)) for pick in picks]
    assert np.mean(drawn) < 0.06


@pytest.mark.parametrize(("count", "found"), [(12, True), (1, False), (0, False)])
def test_a_few_at_the_rim_are_no_evidence(count, found):
    """One is never: half less two standard errors of one is below 0."""
    parts = [part(1 + number, 1) for number in range(count)]
    assert keeps_to_rim(on_masks_of_their_own(parts)) is found


def test_one_piece_is_no_evidence_however_often_it_was_photographed():
    at_rim = [part(1, 1 + number) for number in range(12)]
    assert not keeps_to_rim(on_masks_of_their_own(at_rim, group="plate"))
    assert not keeps_to_rim(at_rim)  # all of one mask
    middle = on_masks_of_their_own([part(13, 8)] * 3)
    many_of_one = on_masks_of_their_own(at_rim, group="plate")
    assert not keeps_to_rim(middle + many_of_one)


def test_parts_on_the_frame_have_no_say():
    middle = [part(13, 8) for _ in range(12)]
    on_frame = [part(0, 8) for _ in range(50)]
    assert not keeps_to_rim(on_masks_of_their_own(middle + on_frame))
