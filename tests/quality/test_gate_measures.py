"""What the gate measures means the same in dim and bright light, and follows what can be seen."""

import itertools

import numpy as np
import pytest
import scipy.ndimage

from fastsynth.quality import gate_measures as measures
from fastsynth.quality.gate import REASONS, Case, Gate
from fastsynth.quality.gate_config import GateConfig

SHAPE = (96, 96)


def ground(level: float, *, grain: float = 0.02) -> np.ndarray:
    """(96, 96, 1) uint8: a grey of the given level, with grain in proportion to it."""
    noise = np.random.default_rng(0).normal(0, grain, (*SHAPE, 1))
    return np.clip(np.rint(level * (1 + noise)), 0, 255).astype(np.uint8)


def box(top: int, left: int, height: int, width: int) -> np.ndarray:
    found = np.zeros(SHAPE, bool)
    found[top : top + height, left : left + width] = True
    return found


def darkened(source: np.ndarray, where: np.ndarray, by: float) -> np.ndarray:
    return np.where(where[..., None], np.rint(source * (1 - by)), source).astype(np.uint8)


def visible(source: np.ndarray, image: np.ndarray, foreground: np.ndarray) -> bool:
    gate = Gate([], rules={"visible": GateConfig().rules()["visible"]})
    verdict = gate.judge(Case(source, image, foreground, "tile", "crack", "by_hand"), sample_id=0, stored=None)
    return REASONS["visible"] not in verdict.reasons


@pytest.mark.parametrize(("level", "seen"), [(0, False), (60, True)])
def test_a_change_of_four_levels_is_not_seen_in_the_black_of_a_bright_picture(level, seen):
    """As below what the sound of an ultrasound picture reaches; in a dim picture it is seen."""
    mask = box(50, 30, 20, 40)
    source = np.zeros((*SHAPE, 1), np.uint8)
    source[:30] = 200 if level == 0 else level
    source[30:] = level
    image = np.where(mask[..., None], source + 4, source).astype(np.uint8)
    assert visible(source, image, mask) == seen


@pytest.mark.parametrize("by", [0.2, 0.5])
def test_a_step_at_the_border_is_the_same_in_dim_and_in_bright_light(by):
    mask = box(30, 30, 20, 40)
    steps = [measures.border_step(darkened(ground(level), mask, by), mask) for level in (60, 220)]
    assert steps == pytest.approx([by, by], abs=0.02)


def test_a_step_is_the_same_up_and_down():
    mask = box(30, 30, 20, 40)
    plain = np.full((*SHAPE, 1), 100, np.uint8)
    assert measures.border_step(darkened(plain, mask, 0.4), mask) == pytest.approx(0.4, abs=0.01)
    assert measures.border_step(darkened(plain, ~mask, 0.4), mask) == pytest.approx(0.4, abs=0.01)


def test_a_step_over_no_background_is_none():
    assert measures.border_step(ground(100), np.ones(SHAPE, bool)) == 0


def test_a_step_in_dim_light_counts_against_a_twentieth_of_the_range():
    mask = box(30, 30, 20, 40)
    image = np.where(mask[..., None], 0, 5).astype(np.uint8) * np.ones((1, 1, 1), np.uint8)
    assert measures.border_step(image, mask) == pytest.approx(5 / 255 / 0.05, rel=0.02)


def test_shares_and_offset_are_those_of_the_pixels_that_can_be_seen():
    inside, outside, contrast = np.zeros((20, 20), bool), np.zeros((20, 20), bool), np.zeros((20, 20), np.float32)
    inside[5:10, 4:14] = True
    outside[15:17, 3:8] = True
    contrast[5:10, 4:9], contrast[15:17, 3:6], contrast[0, 0] = 3.0, 8.0, 9.0
    found = measures.Change((np.s_[:], np.s_[:]), inside, contrast, outside)
    assert measures.visible_share(found, min_contrast=3.0) == 0.5
    assert measures.visible_share(found, min_contrast=3.1) == 0
    assert measures.outside_share(found, min_contrast=8.0) == 6 / 50
    assert measures.outside_share(found, min_contrast=8.1) == 0
    # half a box of 5 × 10: its middle is 2.5 columns off; variances of 5 and of 10 equal steps are 2 and 8.25
    assert measures.offset(found, min_contrast=3.0) == pytest.approx(2.5 / np.sqrt(2 + 8.25 + 0.5))
    faint = measures.Change(found.at, inside, contrast * 1e-3, outside)
    assert measures.offset(faint, min_contrast=3.0) == pytest.approx(measures.offset(found, min_contrast=3.0))
    nothing = measures.Change(found.at, inside, np.zeros_like(contrast), outside)
    assert measures.offset(nothing, min_contrast=3.0) == 0


def smoothed(values: np.ndarray, inside: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian mean over the pixels inside alone, by SciPy; (h, w), of use inside only."""
    weight = inside.astype(np.float64)
    found = scipy.ndimage.gaussian_filter([values * weight, weight], (0, sigma, sigma), mode="mirror")
    return found[0] / np.maximum(found[1], 1e-6)


@pytest.mark.parametrize("corner", [(0, 0), (30, 34), (66, 61)])
def test_contrast_is_the_change_over_what_the_texture_does_through_the_same_mask(corner):
    """Against the definition, written out: grain of different strength along both axes and in every channel, a mask at
    each place."""
    rng = np.random.default_rng(2)
    grain = scipy.ndimage.gaussian_filter(rng.normal(0, 60, SHAPE), (3, 0.6)) * np.linspace(0.3, 1.5, SHAPE[1])
    source = np.clip(128 + grain[..., None] * (1, 0.2, 0.6), 0, 255).astype(np.uint8)
    mask = box(*corner, 30, 35) & (rng.random(SHAPE) < 0.8)
    image = np.where(mask[..., None], source - np.minimum(source, 9), source)
    found = measures.change(source, image, mask)
    y, x = np.nonzero(mask)
    at = np.s_[max(y.min() - 24, 0) : y.max() + 25, max(x.min() - 24, 0) : x.max() + 25]
    inside = mask[at]
    steps = [step for step in itertools.product((-12, 0, 12), repeat=2) if step != (0, 0)]
    wanted = np.zeros(inside.shape)
    for channel in range(3):
        before, moved = (
            source[at][..., channel] / 255.0,
            (image[at][..., channel] - source[at][..., channel] * 1.0) / 255,
        )
        fine = before - scipy.ndimage.gaussian_filter(before, 8, mode="mirror")
        for sigma in (0, 1.5, 4.0):
            seen = [
                smoothed(np.roll(fine, step, (0, 1)), inside, sigma) if sigma else np.roll(fine, step, (0, 1))
                for step in steps
            ]
            texture = np.sqrt(np.mean([each[inside] ** 2 for each in seen]))
            change = smoothed(moved, inside, sigma) if sigma else moved
            wanted = np.maximum(wanted, np.abs(change) / max(texture, 1 / 255, np.percentile(source, 99) / 25500))
    assert found.inside.shape == inside.shape
    np.testing.assert_array_equal(found.inside, inside)
    np.testing.assert_allclose(found.contrast[inside], wanted[inside], rtol=2e-3)
    assert not found.contrast[~inside].any()


@pytest.mark.parametrize("corner", [(0, 0), (30, 34), (66, 61)])
def test_a_step_is_that_of_two_pixels_on_either_side(corner):
    """Against the definition, written out; at the frame there is no border."""
    rng = np.random.default_rng(6)
    image = rng.integers(0, 255, (*SHAPE, 3)).astype(np.uint8)
    mask = box(*corner, 30, 35) & (scipy.ndimage.gaussian_filter(rng.random(SHAPE), 2) < 0.53)
    square = np.ones((3, 3))
    within = mask & ~scipy.ndimage.binary_erosion(mask, square, iterations=2, border_value=1)
    around = scipy.ndimage.binary_dilation(mask, square, iterations=2) & ~mask
    border = mask & ~scipy.ndimage.binary_erosion(mask, square, border_value=1)
    steps = []
    for channel in range(3):
        pixels = image[..., channel] / 255.0
        inner, outer = (smoothed(pixels, region, 1.5)[border] for region in (within, around))
        steps.append(np.abs(inner - outer) / np.maximum(np.maximum(inner, outer), 0.05))
    assert measures.border_step(image, mask) == pytest.approx(np.max(steps, axis=0).mean(), rel=1e-3)


def test_a_small_detail_is_the_grain_inside_the_mask_centred_and_of_norm_one():
    rng = np.random.default_rng(3)
    image = rng.integers(0, 255, (60, 50, 1)).astype(np.uint8)
    mask = np.zeros((60, 50), bool)
    mask[20:40, 11:36] = rng.random((20, 25)) < 0.7
    mask[20, 11] = mask[39, 35] = True
    grey, inside = image[20:40, 11:36, 0] / 255.0, mask[20:40, 11:36]
    wanted = np.zeros((32, 32))
    wanted[6:26, 3:28] = np.where(inside, grey - smoothed(grey, inside, 2.0), 0)
    found = measures.detail(image, mask)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, wanted / np.linalg.norm(wanted), atol=1e-4)


def test_a_large_detail_is_that_of_the_pixels_inside_shrunk_whatever_lies_outside():
    rng = np.random.default_rng(4)
    mask = np.zeros((100, 90), bool)
    mask[8:72, 10:74] = True
    mask[24:40, 26:42] = False
    blocks = rng.integers(60, 200, (32, 32))
    image = np.full((100, 90, 1), 255, np.uint8)
    image[8:72, 10:74, 0] = blocks.repeat(2, 0).repeat(2, 1)
    image[~mask] = rng.integers(0, 255, (np.count_nonzero(~mask), 1))
    inside = mask[8:72:2, 10:74:2]
    high = np.where(inside, blocks / 255 - smoothed(blocks / 255, inside, 2.0), 0)
    np.testing.assert_allclose(measures.detail(image, mask), high / np.linalg.norm(high), atol=1e-4)


@pytest.mark.parametrize("share", [0.7, 0.1])
def test_cells_of_a_large_detail_are_means_over_the_mask_and_count_when_half_covered(share):
    """Of a mask so thin that no cell is half covered, all count."""
    rng = np.random.default_rng(7)
    mask = rng.random((96, 96)) < share
    mask[[0, -1], [0, -1]] = True
    if share < 0.5:
        cells = mask.reshape(32, 3, 32, 3).swapaxes(1, 2)
        cells &= np.cumsum(cells.reshape(32, 32, 9), axis=2).reshape(cells.shape) <= 4
        mask = cells.swapaxes(1, 2).reshape(96, 96)
    image = rng.integers(118, 124, (96, 96, 1)).astype(np.uint8)
    covered = mask.reshape(32, 3, 32, 3).mean(axis=(1, 3))
    grey = (image[..., 0] / 255 * mask).reshape(32, 3, 32, 3).mean(axis=(1, 3)) / np.maximum(covered, 1e-6)
    inside = covered >= 0.5 if share > 0.5 else covered > 0
    high = np.where(inside, grey - smoothed(grey, inside, 2.0), 0)
    assert np.linalg.norm(high) < 1
    np.testing.assert_allclose(measures.detail(image, mask), high / np.linalg.norm(high), atol=2e-3)


@pytest.mark.parametrize("turned", [False, True])
def test_a_long_line_keeps_the_width_of_a_pixel(turned):
    image = np.random.default_rng(8).integers(0, 255, (100, 100, 1)).astype(np.uint8)
    mask = np.zeros((100, 100), bool)
    mask[2:98, 40] = True
    rows, columns = np.nonzero(measures.detail(*(a.swapaxes(0, 1) if turned else a for a in (image, mask))))
    assert {*(rows if turned else columns)} == {15}
    assert len(columns if turned else rows) >= 30


def test_a_fingerprint_rounds_to_4096ths_and_a_tie_is_no_bit():
    signs = np.random.default_rng(0).integers(0, 2, (256, 1024)) * 2 - 1
    for first, wanted in ((2048.4, signs[:, 0] + signs[:, 1] > 0), (2049, 2049 * signs[:, 0] + 2048 * signs[:, 1] > 0)):
        found = np.zeros((32, 32), np.float32)
        found[0, :2] = first / 4096, 0.5
        assert measures.fingerprint(found) == int("".join("1" if bit else "0" for bit in wanted), 2)


def test_a_fingerprint_is_the_signs_of_the_stored_projections():
    found = measures.detail(
        np.random.default_rng(5).integers(0, 255, (40, 40, 1)).astype(np.uint8), box(4, 4, 30, 30)[:40, :40]
    )
    signs = np.random.default_rng(0).integers(0, 2, (256, 1024)) * 2 - 1
    bits = "".join("1" if sign @ np.rint(found.ravel() * 4096.0).astype(int) > 0 else "0" for sign in signs)
    assert measures.fingerprint(found) == int(bits, 2)
    assert measures.fingerprint(np.zeros((32, 32), np.float32)) == 0


def test_every_other_detail_gets_its_own_best_similarity_over_turns_and_shifts():
    rng = np.random.default_rng(1)
    image = rng.integers(0, 255, (40, 40, 1)).astype(np.uint8)
    mask = np.zeros((40, 40), bool)
    mask[10:30, 8:32] = True
    mine = measures.detail(image, mask)
    others = np.stack([measures.detail(rng.integers(0, 255, (40, 40, 1)).astype(np.uint8), mask), mine, -mine])
    same = measures.similarity(mine, others)
    assert same[1] == pytest.approx(1, abs=1e-5)
    assert max(same[0], same[2]) < 0.3
    moved = np.roll(mine, (2, -1), axis=(0, 1))
    assert measures.similarity(moved, others)[1] == pytest.approx(1, abs=1e-5)
    assert measures.similarity(moved, others, shift=1)[1] < 0.3
    assert measures.similarity(np.roll(mine, 3, axis=0), others)[1] < 0.3
    turned = measures.turned(mine)
    assert turned.shape == (8, 32, 32)
    assert len({each.tobytes() for each in turned}) == 8
    for each in (np.rot90(mine), mine[::-1], mine[:, ::-1], mine.T):
        assert measures.similarity(each, turned).max() == pytest.approx(1, abs=1e-5)


def test_a_crack_with_one_dark_end_is_in_the_right_place_and_a_mask_with_only_an_end_filled_is_not():
    source, mask, end = ground(150), box(20, 40, 50, 4), box(20, 40, 12, 4)
    crack = darkened(darkened(source, mask, 0.2), end, 0.7)
    only_end = darkened(source, end, 0.7)
    limit = GateConfig().alignment.max_offset
    offsets = [measures.offset(measures.change(source, image, mask), min_contrast=3.0) for image in (crack, only_end)]
    assert offsets[0] < 0.2 < limit < offsets[1]


def test_a_shade_that_fades_before_the_border_cannot_be_seen_and_one_with_an_edge_can():
    """The same few levels in the middle of the mask, with and without a step along its border."""
    source, mask = ground(120), box(20, 20, 56, 56)
    rows, columns = np.mgrid[:96, :96] - 47.5
    fading = 0.045 * np.exp(-(rows**2 + columns**2) / (2 * 14.0**2))
    faded = np.where(mask[..., None], np.rint(source * (1 - fading[..., None])), source).astype(np.uint8)
    outlined = darkened(faded, mask & ~box(23, 23, 50, 50), 0.07)
    assert not visible(source, faded, mask)
    assert visible(source, outlined, mask)


def test_a_small_dark_spot_amid_a_wide_mask_is_seen_without_any_edge():
    source, mask = ground(120), box(20, 20, 40, 40)
    assert visible(source, darkened(source, box(32, 32, 14, 14), 0.6), mask)
    assert not visible(source, darkened(source, box(38, 38, 3, 3), 0.6), mask)


def test_coarse_ground_is_not_asked_for_an_edge():
    """Its own steps hide any edge; what replaces a fifth of the mask there is seen by its structure."""
    rng = np.random.default_rng(1)
    coarse = np.kron(rng.integers(60, 200, (24, 24)), np.ones((4, 4)))[..., None].astype(np.uint8)
    mask = box(20, 20, 48, 48)
    assert measures.border_step(coarse, mask) > GateConfig().visible.calm_step
    image = np.where(box(32, 32, 26, 26)[..., None], 190, coarse).astype(np.uint8)
    change = measures.change(coarse, image, mask)
    share = measures.visible_share(change, min_contrast=3.0)
    assert GateConfig().visible.min_share <= share < GateConfig().visible.sure_share
    assert measures.visible_share(change, min_contrast=GateConfig().visible.sure_contrast) == 0
    assert visible(coarse, image, mask)
