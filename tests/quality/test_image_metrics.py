"""Crops, KID and diversity against their formulas, and against changes whose direction is known."""

import time
from itertools import combinations, pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest
import scipy.stats
import torch

from fastsynth.images import read_image, read_mask
from fastsynth.quality.image_metrics import (
    Crops,
    KIDResult,
    defect_crops,
    diversity,
    inception_score,
    kid,
    kid_of_halves,
    mean_kid,
    nearest_distance,
    perceptual_embedding,
    trunk_features,
)

DATA = Path(__file__).resolve().parents[2] / "data" / "magnetic_tile"


def scene(size=(90, 120), *, box=(30, 40, 50, 70), dtype=np.uint8):
    """A grey gradient with a dark rectangle [y0, x0, y1, x1], and its foreground."""
    image = np.tile(np.linspace(80, 200, size[1]), (size[0], 1))
    foreground = np.zeros(size, bool)
    foreground[box[0] : box[2], box[1] : box[3]] = True
    image[foreground] = 10
    scale = 257 if dtype == np.uint16 else 1
    return (image * scale).astype(dtype)[..., None], foreground


def noise_crops(rng, number, *, size=64) -> Crops:
    images = torch.from_numpy(rng.uniform(-1, 1, (number, 3, size, size)).astype(np.float32))
    masks = torch.zeros(number, 1, size, size, dtype=torch.bool)
    masks[:, :, 20:40, 20:40] = True
    return Crops(images, masks)


@pytest.mark.parametrize(
    ("size", "box"),
    [
        ((90, 120), (30, 40, 50, 70)),
        ((90, 120), (0, 0, 6, 5)),
        ((90, 120), (84, 100, 90, 120)),
        ((90, 120), (1, 2, 89, 119)),
        ((20, 300), (5, 10, 15, 290)),
        ((9, 7), (4, 3, 5, 4)),
    ],
    ids=["middle", "corner", "other corner", "almost all", "wide strip", "tiny image"],
)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_crop_shows_the_whole_defect_where_its_mask_says(size, box, dtype):
    image, foreground = scene(size, box=box, dtype=dtype)
    crops = defect_crops([image], [foreground], size=64)
    assert crops.images.shape == (1, 3, 64, 64)
    assert crops.masks.shape == (1, 1, 64, 64)
    assert crops.images.dtype == torch.float32
    assert -1 <= crops.images.min() <= crops.images.max() <= 1
    mask = crops.masks[0, 0]
    inside = crops.images[0, 0][mask]
    assert inside.min() < -0.6  # one pixel, enlarged four times, is smoothed
    assert inside.mean() < crops.images.mean()
    height, width = box[2] - box[0], box[3] - box[1]
    scale = 64 / max(round(1.5 * max(height, width)), 16)
    # enlarging rounds to the nearest pixel; shrinking keeps every touched one, at most one more on every side
    assert (height * scale - 1) * (width * scale - 1) <= mask.sum()
    assert mask.sum() <= (height * scale + 2) * (width * scale + 2)


def test_a_crop_s_pixels_are_the_window_s_from_minus_one_to_one():
    """A defect of 40 px gets a window of 60, centred on it, kept inside at the border, mirrored where too long."""
    ramp = np.arange(100)[:, None] + 100 * (np.arange(80)[None] >= 40)
    for size, box, rows in (
        ((100, 80), (30, 30, 70, 50), np.arange(20, 80)),
        ((100, 80), (2, 30, 42, 50), np.arange(60)),
        ((100, 80), (58, 30, 98, 50), np.arange(40, 100)),
        ((50, 80), (5, 30, 45, 50), np.pad(np.arange(50), 5, mode="reflect")),
    ):
        image, foreground = ramp[: size[0], :].astype(np.uint8)[..., None], np.zeros(size, bool)
        foreground[box[0] : box[2], box[1] : box[3]] = True
        crop = defect_crops([image], [foreground], size=60)
        wanted = image[rows][:, 10:70, 0] / 127.5 - 1
        np.testing.assert_allclose(crop.images[0, 0].numpy(), wanted, atol=1e-6)
        inside = np.isin(rows, np.arange(box[0], box[2])) & (size[0] == 100)
        if size[0] == 100:
            np.testing.assert_array_equal(crop.masks[0, 0].numpy()[:, 30], inside)
    assert defect_crops([image], [foreground]).images.shape == (1, 3, 128, 128)


def test_a_small_defect_is_enlarged_smoothly():
    image, foreground = scene()
    foreground[:] = False
    foreground[44:46, 60:62] = True
    crop = defect_crops([image], [foreground], size=128)
    window = image[29:61, 45:77].repeat(3, axis=2)
    wanted = cv2.resize(window, (128, 128), interpolation=cv2.INTER_LINEAR)
    np.testing.assert_allclose(crop.images[0].numpy().transpose(1, 2, 0), wanted / 127.5 - 1, atol=1e-6)


def test_as_many_foregrounds_as_images():
    image, foreground = scene()
    with pytest.raises(ValueError, match=r"shorter|longer"):
        defect_crops([image, image], [foreground])


def test_the_inception_score_is_the_exponent_of_the_mean_divergence():
    probabilities = np.random.default_rng(0).dirichlet(np.ones(5), 40)
    marginal = probabilities.mean(axis=0)
    wanted = np.exp(np.mean([scipy.stats.entropy(row, marginal) for row in probabilities]))
    assert inception_score(probabilities) == pytest.approx(wanted)
    assert inception_score(np.eye(4)) == pytest.approx(4)


def test_a_crack_of_one_pixel_survives_shrinking():
    image, foreground = scene((400, 400), box=(20, 200, 380, 201))
    mask = defect_crops([image], [foreground], size=64).masks[0, 0]
    assert mask.any(dim=1).sum() >= 64 / 1.5 - 2


def test_features_depend_on_what_lies_inside_the_mask_only_as_far_as_the_trunk_sees():
    rng = np.random.default_rng(0)
    crops = noise_crops(rng, 4, size=256)
    changed = crops.images.clone()
    changed[:, :, 200:, 200:] = 1.0
    near = crops.images.clone()
    near[:, :, 20:40, 20:40] = 1.0
    before, far_away = trunk_features(crops), trunk_features(Crops(changed, crops.masks))
    inside = trunk_features(Crops(near, crops.masks))
    assert np.abs(before - far_away).max() < 0.05 * np.abs(before - inside).max()


def test_features_do_not_depend_on_the_batch_and_have_mean_square_one():
    crops = noise_crops(np.random.default_rng(0), 40)
    together = trunk_features(crops)
    alone = trunk_features(Crops(crops.images[37:38], crops.masks[37:38]))
    assert together.shape == (40, 152)
    assert alone[0] == pytest.approx(together[37], abs=1e-3)
    assert (together**2).mean(axis=1) == pytest.approx(np.ones(40), rel=1e-4)


def double_sums(x: np.ndarray, y: np.ndarray) -> float:
    """Unbiased MMD² with the kernel (x·y / D + 1)³, pair by pair."""

    def k(a, b):
        return (sum(p * q for p, q in zip(a, b, strict=True)) / len(a) + 1) ** 3

    within = [np.mean([k(a, b) for a, b in combinations(s, 2)]) for s in (x, y)]
    return float(sum(within) - 2 * np.mean([k(a, b) for a in x for b in y]))


def test_kid_of_whole_sets_equals_the_double_sums():
    rng = np.random.default_rng(0)
    real, fake = rng.normal(size=(6, 5)), rng.normal(0.5, 1, (4, 5))

    # halves of a set written twice would repeat items; so compare the mean over all halves with a long run
    halves = [
        double_sums(real[list(i)], fake[list(j)]) for i in combinations(range(6), 3) for j in combinations(range(4), 2)
    ]
    assert np.mean(halves) == pytest.approx(double_sums(real, fake))  # the estimator is unbiased
    found = kid(real, fake, rng=rng, subsets=4000)
    assert found.mean == pytest.approx(np.mean(halves), abs=4 * np.std(halves) / np.sqrt(4000))
    assert found.low == pytest.approx(np.percentile(halves, 2.5), abs=0.3 * np.std(halves))
    assert found.high == pytest.approx(np.percentile(halves, 97.5), abs=0.3 * np.std(halves))


def test_the_interval_is_that_of_the_halves_of_either_set():
    """Of sets of unequal sizes, each half its own, and at most `subset_size`."""
    rng = np.random.default_rng(3)
    real, fake = rng.normal(size=(12, 6)), rng.normal(0.2, 1, size=(60, 6))

    def values(largest: int) -> np.ndarray:
        draw = np.random.default_rng(4)
        halves = [
            [s[draw.choice(len(s), min(len(s) // 2, largest), replace=False)] for s in (real, fake)] for _ in range(100)
        ]
        return np.array([double_sums(*pair) for pair in halves])

    for largest in (500, 5):
        found = kid(real, fake, rng=np.random.default_rng(4), subset_size=largest)
        wanted = values(largest)
        assert (found.mean, found.low, found.high) == pytest.approx(
            (wanted.mean(), *np.percentile(wanted, [2.5, 97.5])), abs=1e-9
        )


def test_kid_of_equal_distributions_covers_zero_in_about_95_of_100_cases():
    rng = np.random.default_rng(0)
    found = [kid(rng.normal(size=(60, 20)), rng.normal(size=(60, 20)), rng=rng) for _ in range(60)]
    assert 54 <= sum(low <= 0 <= high for _, low, high in found) <= 60
    assert abs(np.mean([one.mean for one in found])) < 0.02


def test_kid_grows_with_the_shift_between_the_sets():
    rng = np.random.default_rng(0)
    real, fake = rng.normal(size=(200, 20)), rng.normal(size=(200, 20))
    found = [kid(real, fake + shift, rng=np.random.default_rng(1)) for shift in (0.0, 0.3, 0.6, 1.0)]
    assert all(a.mean < b.mean for a, b in pairwise(found))
    assert found[1].low > 0


def test_two_sets_that_hardly_differ_differ_by_less_than_the_interval_of_either():
    rng = np.random.default_rng(0)
    real, fake = rng.normal(size=(60, 20)), rng.normal(0.3, size=(60, 20))
    near, far = (kid_of_halves(real, fake + shift, rng=np.random.default_rng(1)) for shift in (0.0, 0.05))
    assert kid(real, fake, rng=np.random.default_rng(1)).mean == pytest.approx(near.mean())
    more = far - near
    assert np.percentile(more, 2.5) > 0
    assert np.ptp(more) < np.ptp(near) / 2


def test_the_interval_of_a_mean_over_types_narrows_with_their_number():
    one = KIDResult(0.5, 0.4, 0.7)
    assert mean_kid([one]) == pytest.approx(one)
    assert mean_kid([one] * 4) == pytest.approx((0.5, 0.45, 0.6))
    # independent errors: 0.03 and 0.04 together are 0.05, halved by the mean of two
    assert mean_kid([KIDResult(1, 0.97, 1.03), KIDResult(3, 2.96, 3.04)]) == pytest.approx((2, 1.975, 2.025))


def test_the_same_rng_gives_the_same_kid():
    rng = np.random.default_rng(0)
    real, fake = rng.normal(size=(20, 5)), rng.normal(size=(20, 5))
    assert kid(real, fake, rng=np.random.default_rng(1)) == kid(real, fake, rng=np.random.default_rng(1))


def test_squared_distances_of_embeddings_are_the_perceptual_distance_layer_by_layer():
    from fastsynth.offline import offline_trunk

    crops = noise_crops(np.random.default_rng(0), 2)
    slow = 0.0
    for layer in offline_trunk(out_indices=(1, 2, 3))(crops.images):
        unit = layer / layer.norm(dim=1, keepdim=True)
        slow += float(((unit[0] - unit[1]) ** 2).sum(dim=0).mean())
    a, b = perceptual_embedding(crops)
    assert ((a - b) ** 2).sum() == pytest.approx(slow, rel=1e-4)


class TestNearest:
    @staticmethod
    def boxed(rng: np.random.Generator, count: int) -> Crops:
        crops = noise_crops(rng, count)
        masks = torch.zeros_like(crops.masks)
        masks[:, :, 30:70, 40:60] = True
        return Crops(crops.images, masks)

    def test_it_is_the_perceptual_distance_inside_the_mask_layer_by_layer(self):
        from fastsynth.offline import offline_trunk

        crops = self.boxed(np.random.default_rng(0), 2)
        slow = np.inf
        for turns in range(4):
            for mirrored in (False, True):
                turned = [torch.rot90(tensor[1:], turns, (2, 3)) for tensor in crops]
                turned = [tensor.flip(3) if mirrored else tensor for tensor in turned]
                found = 0.0
                for layers in zip(
                    *map(offline_trunk(out_indices=(1, 2, 3)), (crops.images[:1], turned[0])), strict=True
                ):
                    weighted = []
                    for layer, mask in zip(layers, (crops.masks[:1], turned[1]), strict=True):
                        cell = mask.shape[-1] // layer.shape[-1]
                        touched = mask[0, 0].unfold(0, cell, cell).unfold(1, cell, cell).flatten(2).any(dim=2).double()
                        weighted.append(layer[0] / layer[0].norm(dim=0) * (touched / touched.sum()).sqrt())
                    found += float(((weighted[0] - weighted[1]) ** 2).sum())
                slow = min(slow, found)
        near = nearest_distance(*(Crops(crops.images[at], crops.masks[at]) for at in (slice(0, 1), slice(1, 2))))
        assert near[0] == pytest.approx(slow, rel=1e-3)

    def test_a_copy_is_near_in_any_pose_and_on_another_surface_and_another_defect_is_not(self):
        rng = np.random.default_rng(0)
        known, other = self.boxed(rng, 3), self.boxed(rng, 3)
        posed = Crops(*(torch.rot90(tensor, 1, (2, 3)).flip(2) for tensor in known))
        elsewhere = Crops(torch.where(known.masks, known.images, other.images), known.masks)
        distances = [nearest_distance(fake, known) for fake in (posed, elsewhere, other)]
        assert distances[0] == pytest.approx(0, abs=1e-4)
        assert (distances[1] < 0.5 * distances[2]).all()


def test_diversity_is_zero_for_copies_and_grows_with_the_noise_on_them():
    rng = np.random.default_rng(0)
    real = noise_crops(rng, 2)
    embedded = perceptual_embedding(real)
    found = []
    for strength in (0.0, 0.1, 0.3):
        copies = real.images.repeat(4, 1, 1, 1)
        varied = copies + strength * torch.from_numpy(rng.standard_normal(copies.shape).astype(np.float32))
        fake = perceptual_embedding(Crops(varied.clamp(-1, 1), real.masks.repeat(4, 1, 1, 1)))
        found.append(diversity(fake, embedded))
    assert found[0] == pytest.approx(0, abs=1e-5)
    assert found[0] < found[1] < found[2]


def test_diversity_is_the_mean_over_clusters_of_the_mean_over_pairs():
    real = np.array([[0.0, 0.0], [100.0, 0.0], [0.0, 100.0]], np.float32)
    fake = np.array([[0, 0], [0, 1], [0, 3], [100, 0], [102, 0], [1, 99]], np.float32)
    first, second = (1 + 9 + 4) / 3, 4.0  # the third cluster holds no pair
    assert diversity(fake, real) == pytest.approx((first + second) / 2, rel=1e-4)


def test_what_cannot_be_measured_is_refused():
    image, foreground = scene()
    with pytest.raises(ValueError, match="at least one pixel"):
        defect_crops([image], [np.zeros_like(foreground)])
    with pytest.raises(ValueError, match="image's size"):
        defect_crops([image], [foreground[1:]])
    with pytest.raises(ValueError, match="at least one defect image"):
        defect_crops([], [])
    with pytest.raises(ValueError, match="at least 4"):
        kid(np.zeros((3, 2)), np.zeros((9, 2)), rng=np.random.default_rng(0))
    with pytest.raises(ValueError, match="make more than 2"):
        diversity(np.eye(2, dtype=np.float32), np.eye(2, dtype=np.float32))


def test_features_of_200_crops_take_less_than_ten_seconds():
    crops = noise_crops(np.random.default_rng(0), 200, size=128)
    started = time.process_time()
    trunk_features(crops)
    assert time.process_time() - started < 10


@pytest.mark.data
@pytest.mark.skipif(not DATA.is_dir(), reason="data/magnetic_tile is not here")
def test_real_cracks_are_nearer_to_other_real_cracks_than_to_blowholes():
    rng = np.random.default_rng(0)

    def features(defect, which):
        paths = sorted((DATA / "ground_truth" / defect).iterdir())[which]
        masks = [read_mask(path) for path in paths]
        names = [path.stem.removesuffix("_mask") for path in paths]
        images = [read_image(next((DATA / "test" / defect).glob(f"{name}.*"))) for name in names]
        return trunk_features(defect_crops(images, masks))

    cracks, others = features("crack", np.s_[0:48:2]), features("crack", np.s_[1:48:2])
    blowholes = features("blowhole", np.s_[:24])
    assert kid(cracks, blowholes, rng=rng).low > kid(cracks, others, rng=rng).high
