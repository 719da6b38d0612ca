"""Laws of the exemplars: pasted back home nothing changes, elsewhere the tone follows, borrowed shapes line up."""

from dataclasses import replace

import cv2
import numpy as np
import pytest

from fastsynth.diffusion.views import defect_views
from fastsynth.layouts.crop import Crop, ValueRange, crop_around, cut, paste
from fastsynth.layouts.exemplar import (
    Exemplar,
    ExemplarBank,
    _looked_at,
    instance_mask,
    light,
    moment_warp,
    with_contrast_of,
)
from fastsynth.layouts.masks import draw_real
from fastsynth.layouts.parts import RealMask, split_parts, tight_box
from fastsynth.layouts.placement import object_region
from fastsynth.layouts.poses import ALL_POSES
from fastsynth.layouts.sampler import LayoutConfig, LayoutSampler
from fastsynth.quality.gate import Case, Gate
from fastsynth.quality.gate_config import GateConfig
from fastsynth.types import Instance, Warp
from generators.reference import ReferenceRenderer, copy_paste

SOURCE = "ground_truth/dent/1_mask.png"


def ellipse(shape=(90, 120), centre=(60, 40), axes=(25, 9), angle=30.0) -> np.ndarray:
    return cv2.ellipse(np.zeros(shape, np.uint8), centre, axes, angle, 0, 360, 1, cv2.FILLED) > 0


def defect(dtype=np.uint8, channels=3, seed=0) -> Exemplar:
    """Texture of mean 100 (of 255) with a dark, textured dent on it."""
    foreground = ellipse()
    texture = np.random.default_rng(seed).uniform(80, 120, (*foreground.shape, channels))
    texture[foreground] -= 60
    scale = np.iinfo(dtype).max // 255
    return Exemplar((texture * scale).astype(dtype), foreground, "tile", "dent", SOURCE)


def instance_of(foreground: np.ndarray, *, left=None, top=None, warp_to=None, defect="dent") -> Instance:
    """The foreground as an instance, where it lies or at left, top, its warp leading back to where it lies."""
    x0, y0, x1, y1 = tight_box(foreground)
    warp = None if warp_to is None else Warp(warp_to, (1.0, 0.0, float(x0), 0.0, 1.0, float(y0)))
    mask = np.ascontiguousarray(foreground[y0:y1, x0:x1])
    return Instance(1, defect, mask, x0 if left is None else left, y0 if top is None else top, warp=warp)


def paste_into(background: np.ndarray, instance: Instance, bank: ExemplarBank, *, seed=0) -> tuple[np.ndarray, Crop]:
    crop = crop_around(instance.bbox, image_size=background.shape[:2])
    return bank.warped_into(background, instance, crop, category="tile", seed=seed), crop


class TestSurface:
    """What tells the light is surface: not what the frame mirrors, not the ground beside an object."""

    def test_a_band_across_the_whole_picture_has_its_contrast_up_to_the_frame(self):
        def strip(seed: int) -> np.ndarray:
            return 140 + np.random.default_rng(seed).normal(0, 2, (100, 600, 1))

        foreground = np.zeros((100, 600), bool)
        foreground[:, 250:400] = True
        own = Exemplar((strip(0) - 45 * foreground[..., None]).astype(np.uint8), foreground, "tile", "dent", SOURCE)
        background = strip(1).astype(np.uint8)
        instance = instance_of(foreground, left=120, warp_to=SOURCE)
        pasted, crop = paste_into(background, instance, ExemplarBank([own]))
        assert crop.top < 0  # larger than the picture
        change = (
            127.5 * (pasted - ValueRange.of(background).to_float(cut(background, crop)))[-crop.top : 100 - crop.top]
        )
        middle = change[:, 140 - crop.left : 250 - crop.left, 0]
        np.testing.assert_allclose(middle.mean(axis=1), -45, atol=3)

    @pytest.mark.parametrize(("ground", "plate"), [(235, 60), (20, 150)])
    def test_a_stain_near_the_rim_of_an_object_has_the_tone_it_has_in_the_middle(self, ground, plate):
        def picture(seed: int) -> np.ndarray:
            flat = np.full((200, 200), float(ground))
            cv2.circle(flat, (100, 100), 80, float(plate), cv2.FILLED)
            return flat[..., None] + np.random.default_rng(seed).normal(0, 2, (200, 200, 1))

        foreground = ellipse((200, 200), centre=(100, 100), axes=(12, 9), angle=0.0)
        image = np.where(foreground[..., None], 110, picture(0)).clip(0, 255).astype(np.uint8)
        own = Exemplar(image, foreground, "tile", "dent", SOURCE, region=object_region(image))
        background = picture(1).clip(0, 255).astype(np.uint8)
        for gap in (20, 2, 0):
            instance = instance_of(foreground, left=180 - gap - 24, warp_to=SOURCE)
            pasted, crop = paste_into(background, instance, ExemplarBank([own]))
            core = cv2.erode(instance_mask(instance, crop).astype(np.uint8), np.ones((5, 5))) > 0
            assert 127.5 * (pasted[core].mean() + 1) == pytest.approx(110, abs=8), gap


class TestHome:
    @pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
    @pytest.mark.parametrize("channels", [1, 3])
    def test_an_exemplar_pasted_back_into_its_own_image_is_the_image(self, dtype, channels):
        own = defect(dtype, channels)
        pasted, crop = paste_into(own.image, instance_of(own.foreground, warp_to=SOURCE), ExemplarBank([own]))
        wanted = ValueRange.of(own.image).to_float(cut(own.image, crop))
        assert pasted.dtype == np.float32
        np.testing.assert_allclose(pasted, wanted, atol=1e-5)

    def test_so_does_a_shape_drawn_without_change(self):
        own = defect()
        (part,) = split_parts(RealMask(SOURCE, "dent", own.foreground))
        shape = draw_real(
            part, rng=np.random.default_rng(0), scale_range=(1, 1), rotation_range=(0, 0), flip=False, elastic=0.0,
            thickness_range=(0, 0),
        )  # fmt: skip
        instance = Instance(1, "dent", shape.mask, part.left, part.top, warp=shape.warp)
        pasted, crop = paste_into(own.image, instance, ExemplarBank([own]))
        np.testing.assert_allclose(pasted, ValueRange.of(own.image).to_float(cut(own.image, crop)), atol=1e-5)

    def test_a_mirrored_shape_shows_the_mirrored_defect(self):
        own = defect()
        x0, y0, x1, y1 = tight_box(own.foreground)
        mirrored = Exemplar(own.image[:, ::-1].copy(), own.foreground[:, ::-1].copy(), "tile", "dent", SOURCE)
        mask = np.ascontiguousarray(mirrored.foreground[:, 120 - x1 : 120 - x0][y0:y1])
        warp = Warp(SOURCE, (-1.0, 0.0, float(x1 - 1), 0.0, 1.0, float(y0)))
        pasted, crop = paste_into(
            mirrored.image, Instance(1, "dent", mask, 120 - x1, y0, warp=warp), ExemplarBank([own])
        )
        np.testing.assert_allclose(pasted, ValueRange(0, 255).to_float(cut(mirrored.image, crop)), atol=1e-5)


class TestLight:
    def test_it_is_the_mean_of_the_ring_by_inverse_distances(self):
        rng = np.random.default_rng(0)
        pixels, around = rng.uniform(-0.2, 0.6, (30, 40, 3)), rng.random((30, 40)) < 0.1
        found = light(pixels, around, spread=5.0)
        y, x = np.nonzero(around)
        for row, column in ((0, 0), (15, 20), (29, 39)):
            weights = ((y - row) ** 2 + (x - column) ** 2 + 25.0) ** -2.0
            wanted = (weights[:, None] * pixels[around]).sum(axis=0) / weights.sum()
            np.testing.assert_allclose(found[row, column], wanted, atol=1e-5)

    @pytest.mark.parametrize("size", [(30, 40), (301, 200), (500, 500)])
    def test_large_crops_have_the_light_of_small_ones(self, size):
        """A slope of the light, seen on a ring: in the middle, as bright as there, at the rim nearly so."""
        y, x = np.mgrid[: size[0], : size[1]] / (np.array(size)[:, None, None] - 1)
        pixels = (0.5 * x)[..., None] - 0.25
        around = np.abs(np.hypot(x - 0.5, y - 0.5) - 0.3) < 0.04
        found = light(pixels, around, spread=0.1 * max(size))
        assert found.shape == (*size, 1)
        middle, left, right = (found[size[0] // 2, round(share * size[1]), 0] for share in (0.5, 0.2, 0.8))
        assert middle == pytest.approx(0, abs=0.01)
        assert (left, right) == pytest.approx((-0.13, 0.13), abs=0.05)

    def test_what_is_not_lit_does_not_count(self):
        pixels = np.full((40, 40, 1), 0.4)
        pixels[:, :20] = -0.95
        around = np.zeros((40, 40), bool)
        around[10:30, 10:30] = True
        np.testing.assert_allclose(light(pixels, around, spread=4.0), 0.4, atol=1e-6)


class TestElsewhere:
    @pytest.mark.parametrize("lift", [-30, 0, 50])
    def test_the_defect_takes_over_the_background_s_tone(self, lift):
        own = defect()
        background = np.full((200, 220, 3), 100 + lift, np.uint8)
        instance = instance_of(own.foreground, left=80, top=90, warp_to=SOURCE)
        pasted, crop = paste_into(background, instance, ExemplarBank([own]))
        deep = cv2.erode(instance_mask(instance, crop).astype(np.uint8), np.ones((7, 7))) > 0
        pixels = (pasted + 1) * 127.5
        # the real dent reflects 40 of 100: so does this one
        assert pixels[deep].mean() == pytest.approx(0.4 * (100 + lift), abs=2.5)

    @pytest.mark.parametrize("own_slope", [False, True])
    def test_it_takes_over_a_slope_of_the_light_and_leaves_its_own_behind(self, own_slope):
        """The dent reflects 40 of 100 wherever it lies; the background's light grows from left to right."""
        own = defect()
        falling = np.linspace(1.3, 0.7, 120)[None, :, None] if own_slope else 1.0
        bank = ExemplarBank([replace(own, image=np.clip(own.image * falling, 0, 255).astype(np.uint8))])
        background = np.repeat(np.linspace(30, 250, 220).astype(np.uint8)[None, :, None], 200, axis=0).repeat(3, axis=2)
        instance = instance_of(own.foreground, left=80, top=90, warp_to=SOURCE)
        pasted, crop = paste_into(background, instance, bank)
        deep = cv2.erode(instance_mask(instance, crop).astype(np.uint8), np.ones((7, 7))) > 0
        wanted = ValueRange.of(background).to_float(cut(background, crop)) + 1
        x = np.nonzero(deep)[1]
        shares = ((pasted + 1) / wanted).mean(axis=2)[deep]
        ends = [shares[x < np.quantile(x, 0.2)].mean(), shares[x > np.quantile(x, 0.8)].mean()]
        assert ends == pytest.approx([0.4, 0.4], abs=0.03)

    def test_a_black_hole_stays_black_in_a_coloured_weave(self):
        rng = np.random.default_rng(0)
        weave = np.kron(rng.uniform(60, 200, (24, 30, 3)), np.ones((5, 5, 1))).astype(np.uint8)
        hole = weave[:90, :120].copy()
        hole[ellipse()] = 0
        elsewhere = np.kron(rng.uniform(60, 200, (40, 44, 3)), np.ones((5, 5, 1))).astype(np.uint8)
        instance = instance_of(ellipse(), left=80, top=90, warp_to=SOURCE)
        pasted, crop = paste_into(elsewhere, instance, ExemplarBank([replace(defect(), image=hole)]))
        deep = cv2.erode(instance_mask(instance, crop).astype(np.uint8), np.ones((7, 7))) > 0
        assert np.quantile((pasted[deep] + 1) * 127.5, 0.95) < 3

    def test_a_defect_from_a_dark_rim_does_not_glow_on_a_surface(self):
        """Most of what surrounds it is the black frame beside the part; the surface reflects 100, the dent 40."""
        own = defect()
        part = own.image.copy()
        x0, _, x1, _ = tight_box(own.foreground)
        rim = np.zeros_like(own.foreground)
        rim[:, : x0 + round(0.7 * (x1 - x0))] = True
        part[rim & ~own.foreground] = 3
        instance = instance_of(own.foreground, left=80, top=90, warp_to=SOURCE)
        bank = ExemplarBank([replace(own, image=part)])
        pasted, crop = paste_into(np.full((200, 220, 3), 150, np.uint8), instance, bank)
        deep = cv2.erode(instance_mask(instance, crop).astype(np.uint8), np.ones((7, 7))) > 0
        assert ((pasted + 1) * 127.5)[deep].mean() == pytest.approx(0.4 * 150, abs=5)

    def test_a_drawn_crack_is_dark_all_along_though_the_real_one_bends_elsewhere(self):
        foreground = np.zeros((90, 120), bool)
        for y in range(10, 80):
            foreground[y, 60 + round(6 * np.sin(y / 6)) :][:2] = True
        image = np.full((90, 120, 1), 100, np.uint8)
        image[foreground] = 20
        crack = Exemplar(image, foreground, "tile", "dent", SOURCE)
        straight = np.zeros((90, 120), bool)
        straight[10:80, 60:62] = True
        pasted, crop = paste_into(np.full((90, 120, 1), 100, np.uint8), instance_of(straight), ExemplarBank([crack]))
        pixels = (pasted[instance_mask(instance_of(straight), crop)] + 1) * 127.5
        assert np.median(pixels) < 40
        assert (pixels < 70).mean() > 0.9

    def test_outside_the_instance_the_background_stays(self):
        own = defect()
        background = np.random.default_rng(3).integers(0, 255, (200, 220, 3), np.uint8)
        instance = instance_of(own.foreground, left=0, top=150, warp_to=SOURCE)
        pasted, crop = paste_into(background, instance, ExemplarBank([own]))
        outside = ~instance_mask(instance, crop)
        np.testing.assert_array_equal(pasted[outside], ValueRange(0, 255).to_float(cut(background, crop))[outside])

    @pytest.mark.parametrize(("channels", "on"), [(1, 3), (3, 1)])
    def test_grey_and_colour_mix(self, channels, on):
        own = defect(channels=channels)
        background = np.full((90, 120, on), 100, np.uint8)
        instance = instance_of(own.foreground, warp_to=SOURCE)
        pasted, crop = paste_into(background, instance, ExemplarBank([own]))
        assert pasted.shape == (crop.side, crop.side, on)
        assert pasted[instance_mask(instance, crop)].mean() < -0.5

    def test_a_16_bit_background_keeps_its_own_range(self):
        own = defect()
        background = np.random.default_rng(3).integers(3000, 4000, (90, 120, 1), np.uint16)
        instance = instance_of(own.foreground, warp_to=SOURCE)
        pasted, crop = paste_into(background, instance, ExemplarBank([own]))
        outside = ~instance_mask(instance, crop)
        assert np.abs(pasted).max() <= 1
        np.testing.assert_array_equal(
            pasted[outside], ValueRange.of(background).to_float(cut(background, crop))[outside]
        )

    @pytest.mark.parametrize("offset", [0, 30_000])
    @pytest.mark.parametrize("lesion", [1800, 300])
    def test_a_16_bit_defect_may_be_brighter_or_darker_than_all_of_the_background(self, lesion, offset):
        """Tissue is 1,000 in both pictures: what is drawn is as bright as the lesion was, up to the feathered rim."""
        tissue = np.random.default_rng(0).integers(950, 1050, (2, 90, 120, 1)).astype(np.uint16)
        foreground = ellipse()
        tissue[0][foreground] = lesion
        tissue += offset
        own = Exemplar(tissue[0], foreground, "tile", "dent", SOURCE)
        instance = instance_of(foreground, warp_to=SOURCE)
        crop = crop_around(instance.bbox, image_size=(90, 120))
        image = tissue[1].copy()
        drawn = ExemplarBank([own]).warped_into(tissue[1], instance, crop, category="tile", seed=0)
        paste(image, drawn, crop, instance_mask(instance, crop), values=ValueRange.of(tissue[1]))
        assert np.median(image[foreground]) - offset == pytest.approx(lesion, rel=0.06)

    def test_a_16_bit_defect_is_never_brighter_than_any_of_the_two_pictures(self):
        """Saturated at a camera's 4,095, on a surface nearly twice as bright."""
        foreground = ellipse()
        image = np.full((90, 120, 1), 1000, np.uint16)
        image[foreground] = 4095
        background = np.full((90, 120, 1), 1800, np.uint16)
        instance = instance_of(foreground, warp_to=SOURCE)
        crop = crop_around(instance.bbox, image_size=(90, 120))
        bank = ExemplarBank([Exemplar(image, foreground, "tile", "dent", SOURCE)])
        drawn = bank.warped_into(background, instance, crop, category="tile", seed=0)
        paste(background, drawn, crop, instance_mask(instance, crop), values=ValueRange.of(background))
        assert background.max() == 4095


def of_axes(longer: int, shorter: int, *, angle: float) -> Exemplar:
    """A defect that is an ellipse of these half axes."""
    return replace(defect(), foreground=ellipse(axes=(longer, shorter), angle=angle))


def linear_part(mask: np.ndarray, exemplar: Exemplar) -> np.ndarray:
    return np.array(moment_warp(mask, exemplar).matrix).reshape(2, 3)[:, :2]


class TestMomentWarp:
    @pytest.mark.parametrize("seed", range(6))
    def test_centre_goes_to_centre_and_spread_to_spread(self, seed):
        rng = np.random.default_rng(seed)
        exemplar = defect()
        axes = (int(rng.integers(5, 20)), int(rng.integers(2, 5)))
        mask = ellipse((60, 60), (30, 30), axes, float(rng.uniform(0, 180)))
        a, b, c, d, e, f = moment_warp(mask, exemplar).matrix
        y, x = np.nonzero(mask)
        moved = np.stack([a * x + b * y + c, d * x + e * y + f])
        wanted = np.stack(np.nonzero(exemplar.foreground)[::-1])
        np.testing.assert_allclose(moved.mean(1), wanted.mean(1), atol=1e-6)
        # the spread of a mask counts 0.1 px² wider than it is, on both sides
        np.testing.assert_allclose(np.cov(moved), np.cov(wanted), rtol=0.03, atol=0.5)

    @pytest.mark.parametrize("angle", [0, 25, 70, 90, 120, 179])
    def test_a_shape_of_like_proportions_is_stretched_and_not_turned(self, angle):
        linear = linear_part(ellipse((80, 80), (40, 40), (20, 17), angle), of_axes(20, 14, angle=30))
        np.testing.assert_allclose(linear, linear.T, atol=1e-9)
        assert np.linalg.eigvalsh(linear).min() > 0

    @pytest.mark.parametrize("angle", range(0, 180, 15))
    def test_it_is_the_optimal_transport_of_normal_distributions(self, angle):
        """The symmetric map moves the points least, of all that give the same covariance."""
        mask = ellipse((80, 80), (40, 40), (20, 15), angle)
        exemplar = of_axes(18, 15, angle=30)
        linear = linear_part(mask, exemplar)
        points = np.stack(np.nonzero(mask)[::-1]).astype(float)
        points -= points.mean(1, keepdims=True)
        costs = []
        for turn in np.deg2rad(np.arange(-90, 90, 5)):
            # all maps to the same covariance are L A^½ R A^-½
            values, vectors = np.linalg.eigh(np.cov(points) + 0.1 * np.eye(2))
            root = vectors * np.sqrt(values) @ vectors.T
            rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
            other = linear @ root @ rotation @ np.linalg.inv(root)
            costs.append(((other @ points - points) ** 2).sum(0).mean())
        assert int(np.argmin(costs)) == 18  # no turn

    @pytest.mark.parametrize("angle", [10, 50, 100, 160])
    def test_a_long_shape_is_turned_as_far_as_needed_and_no_farther(self, angle):
        linear = linear_part(ellipse((120, 120), (60, 60), (40, 4), angle), of_axes(36, 5, angle=30))
        left, stretch, right = np.linalg.svd(linear)
        assert 1.8 < stretch[0] / stretch[1] <= 2
        turned = np.rad2deg(np.arctan2(*(left @ right)[:, 0][::-1]))
        to_align = (30 - angle + 90) % 180 - 90
        assert 0 < turned / to_align < 1

    def test_a_shape_longer_than_every_turn_can_mend_is_turned_all_the_way(self):
        linear = linear_part(ellipse((120, 120), (60, 60), (50, 2), 100), of_axes(12, 10, angle=30))
        along = np.deg2rad([100, 30])
        moved = linear @ [np.cos(along[0]), np.sin(along[0])]
        assert abs(np.cross([*moved, 0], [np.cos(along[1]), np.sin(along[1]), 0])[2]) < 0.05 * np.linalg.norm(moved)

    @pytest.mark.parametrize("seed", range(20))
    def test_nothing_is_ever_mirrored(self, seed):
        rng = np.random.default_rng(seed)
        axes = (int(rng.integers(3, 40)), int(rng.integers(3, 40)))
        linear = linear_part(ellipse((120, 120), (60, 60), axes, float(rng.uniform(0, 180))), defect())
        assert np.linalg.det(linear) > 0

    @pytest.mark.parametrize("shape", [(1, 1), (1, 30), (30, 1)])
    def test_a_dot_and_a_line_have_a_finite_warp(self, shape):
        matrix = np.array(moment_warp(np.ones(shape, bool), defect()).matrix).reshape(2, 3)
        assert np.isfinite(matrix).all()
        assert abs(np.linalg.det(matrix[:, :2])) > 1e-3

    def test_of_several_parts_the_largest_is_borrowed(self):
        own = defect()
        speck = own.foreground.copy()
        speck[2:4, 110:112] = True
        mask = ellipse((60, 60), (30, 30), (10, 5), 0)
        with_speck = Exemplar(own.image, speck, "tile", "dent", SOURCE)
        assert moment_warp(mask, with_speck) == moment_warp(mask, own)


class TestPastTheBorder:
    """A pit with a dark floor, 20, and a lit rim two pixels wide, 200, on a surface of 100; its mask holds the rim."""

    def pit(self) -> Exemplar:
        y, x = np.indices((61, 61)) - 30
        image = np.full((61, 61, 1), 100, np.uint8)
        image[np.hypot(y, x) <= 10.5] = 200
        image[np.hypot(y, x) <= 8.5] = 20
        return Exemplar(image, np.hypot(y, x) <= 10.5, "tile", "pit", SOURCE)

    def drawn(self, wider: float) -> tuple[np.ndarray, np.ndarray]:
        """The pit in a mask that is so many pixels wider, grey levels (61, 61), and how far pixels lie from it."""
        y, x = np.indices((61, 61)) - 30
        inside = np.hypot(y, x) <= 10.5 + wider
        instance = instance_of(inside, warp_to=SOURCE, defect="pit")
        found = ExemplarBank([self.pit()]).warped(instance, Crop(0, 0, 61), inside, category="tile", seed=0)
        return (found[..., 0] + 1) * 127.5, np.where(inside, np.hypot(y, x) - 10.5, np.nan)

    @pytest.mark.parametrize("wider", [1, 2])
    def test_a_mask_that_is_a_little_wider_shows_the_rim_without_specks(self, wider):
        found, past = self.drawn(wider)
        np.testing.assert_allclose(found[past > 0], 200, atol=30)

    def test_further_out_the_defect_is_mirrored(self):
        found, past = self.drawn(9)
        assert (found[past > 6] < 60).mean() > 0.9


class TestChoice:
    def test_a_procedural_mask_borrows_a_defect_of_its_type(self):
        own = defect()
        other = Exemplar(np.full((90, 120, 3), 250, np.uint8), own.foreground, "tile", "stain", "b_mask.png")
        instance = instance_of(ellipse((60, 60), (30, 30), (12, 6), 90.0))
        background = np.full((60, 60, 3), 100, np.uint8)
        pasted, crop = paste_into(background, instance, ExemplarBank([other, own]))
        deep = cv2.erode(instance_mask(instance, crop).astype(np.uint8), np.ones((5, 5))) > 0
        assert ((pasted + 1) * 127.5)[deep].mean() == pytest.approx(40, abs=4)

    def test_so_does_a_mask_whose_source_is_not_among_the_training_defects(self):
        instance = instance_of(ellipse(), warp_to="ground_truth/dent/elsewhere_mask.png")
        pasted, crop = paste_into(np.full((90, 120, 3), 100, np.uint8), instance, ExemplarBank([defect()]))
        assert pasted[instance_mask(instance, crop)].mean() < -0.4

    def test_the_seed_decides_which_and_nothing_else_does(self):
        tones = (0, 20, 40, 60)
        bank = ExemplarBank(
            [
                Exemplar(
                    np.where(ellipse()[..., None], tone, 100).astype(np.uint8), ellipse(), "tile", "dent", f"{tone}"
                )
                for tone in tones
            ]
        )
        background = np.full((90, 120, 1), 100, np.uint8)
        drawn = [
            paste_into(background, instance_of(ellipse()), bank, seed=seed)[0] for seed in (*range(30), *range(30))
        ]
        for first, second in zip(drawn[:30], drawn[30:], strict=True):
            np.testing.assert_array_equal(first, second)
        assert len({image.tobytes() for image in drawn}) == len(tones)

    @staticmethod
    def borrowed(bank: ExemplarBank, instance: Instance, seed: int) -> float:
        """The median grey value drawn inside the shape."""
        pasted, crop = paste_into(np.full((90, 120, 1), 100, np.uint8), instance, bank, seed=seed)
        return float(np.median((pasted[instance_mask(instance, crop)] + 1) * 127.5))

    @staticmethod
    def of_tone(tone: int, shape: np.ndarray) -> Exemplar:
        return Exemplar(np.where(shape[..., None], tone, 100).astype(np.uint8), shape, "tile", "dent", f"{tone}.png")

    def test_one_of_those_that_fit_is_borrowed(self):
        """A lying shape: the upright defects would have to be turned, the round one stretched."""
        upright, round_one = ellipse(axes=(20, 8), angle=90), ellipse(axes=(13, 13))
        lying, tilted = ellipse(axes=(20, 8), angle=4), ellipse(axes=(25, 11), angle=172)
        shapes = {0: upright, 20: upright, 40: round_one, 60: lying, 80: tilted}
        bank = ExemplarBank([self.of_tone(tone, shape) for tone, shape in shapes.items()])
        tones = [self.borrowed(bank, instance_of(ellipse(axes=(30, 13), angle=0)), seed) for seed in range(60)]
        assert np.mean(np.isclose(tones, 60, atol=1)) == pytest.approx(1 / 2, abs=0.2)
        assert np.mean(np.isclose(tones, 80, atol=1)) == pytest.approx(1 / 2, abs=0.2)

    def test_where_nothing_fits_the_least_distorted_is_borrowed(self):
        shapes = {0: ellipse(axes=(20, 8), angle=90), 40: ellipse(axes=(13, 13))}
        bank = ExemplarBank([self.of_tone(tone, shape) for tone, shape in shapes.items()])
        tones = [self.borrowed(bank, instance_of(ellipse(axes=(30, 10), angle=0)), seed) for seed in range(10)]
        np.testing.assert_allclose(tones, 40, atol=1)

    @pytest.mark.parametrize("count", [2, 3, 4])
    def test_the_seed_decides_among_few_too(self, count):
        shapes = [ellipse(axes=(20, 8 + 3 * number), angle=20 * number) for number in range(count)]
        bank = ExemplarBank([self.of_tone(20 * number, shape) for number, shape in enumerate(shapes)])
        instance = instance_of(ellipse(axes=(24, 12), angle=10))
        assert len({round(self.borrowed(bank, instance, seed)) for seed in range(30)}) > 1

    def test_an_unknown_type_is_refused_with_the_known_ones(self):
        instance = instance_of(ellipse(), defect="crack")
        background = np.full((90, 120, 3), 100, np.uint8)
        with pytest.raises(ValueError, match="no training defect tile/crack to start from; there are: tile/dent"):
            paste_into(background, instance, ExemplarBank([defect()]))
        with pytest.raises(ValueError, match="there are: none"):
            paste_into(background, instance, ExemplarBank([]))


@pytest.mark.parametrize("start", [-40.0, -3.5, 0.0, 31.2, 80.0, 130.7])
def test_the_part_that_is_looked_at_gives_the_same_pixels_as_the_whole(start):
    """Also where the places lie beyond the border, on either side."""
    line = np.random.default_rng(0).uniform(-1, 1, (4, 120)).astype(np.float32)
    places = np.linspace(start, start + 25, 50, dtype=np.float32)[None]
    part = _looked_at(places, 120, 60, 64)
    zeros = np.zeros_like(places)
    remap = {"interpolation": cv2.INTER_CUBIC, "borderMode": cv2.BORDER_REFLECT_101}
    whole = cv2.remap(line, places, zeros, **remap)
    looked_at = cv2.remap(np.ascontiguousarray(line[:, part]), places - part.start, zeros, **remap)
    np.testing.assert_array_equal(looked_at, whole)


@pytest.mark.parametrize(("left", "top"), [(0, 0), (20, 11), (39, 21)])
def test_the_mask_in_a_crop_is_cut_from_the_mask_of_the_whole_picture(left, top):
    shape = np.random.default_rng(0).random((9, 11)) < 0.6
    shape[0] = shape[-1] = shape[:, 0] = shape[:, -1] = True
    instance = Instance(id=1, defect="dent", mask=shape, left=left, top=top)
    whole = np.zeros((30, 50), bool)
    whole[top : top + 9, left : left + 11] = shape
    crop = crop_around(instance.bbox, image_size=(30, 50), min_side=40)
    framed = np.pad(whole, 40)[40 + crop.top :, 40 + crop.left :][: crop.side, : crop.side]
    np.testing.assert_array_equal(instance_mask(instance, crop), framed)


class TestWithoutTheRest:
    """What is kept of a large picture is as good as all of it."""

    @staticmethod
    def exemplars(dtype, shape=(700, 900)) -> list[Exemplar]:
        """Defects in the middle, in a corner, at a side and of two parts, on grain of which the range is elsewhere."""
        grain = np.random.default_rng(7).integers(80, 120, (*shape, 1)).astype(dtype)
        found = []
        for number, (centre, axes) in enumerate([((450, 350), (30, 9)), ((4, 5), (20, 12)), ((899, 300), (6, 31))]):
            foreground = ellipse(shape, centre, axes, 20.0 * number)
            if number == 0:
                foreground |= ellipse(shape, (500, 380), (5, 4))
            image = grain.copy()
            image[foreground] = image[foreground] // 2
            image[600, 100 * number + 200] = np.iinfo(dtype).max
            found.append(Exemplar(image, foreground, "tile", "dent", f"{number}.png"))
        return found

    @pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
    @pytest.mark.parametrize("blend", ["light", "poisson"])
    def test_what_is_drawn_from_it_is_the_same_bit_for_bit(self, dtype, blend):
        whole = self.exemplars(dtype)
        kept = [one.without_the_rest(context=2.0) for one in whole]
        assert all(0 < one.image.size < 0.7 * other.image.size for one, other in zip(kept, whole, strict=True))
        assert all(one.image.base is None for one in kept)  # a view would keep all of the picture in memory
        settings = LayoutConfig(scale_range=(0.5, 2.0), procedural_share=0.4).model_dump()
        sampler = LayoutSampler([RealMask(one.source, one.defect, one.foreground) for one in whole], **settings)
        ground = np.random.default_rng(8).integers(60, 90, (400, 500, 1)).astype(dtype)
        layouts = [sampler.draw(ground, "n", "tile", "dent", np.random.default_rng(number)) for number in range(10)]
        drawn = [
            ReferenceRenderer("paste", copy_paste(ExemplarBank(of), blend=blend), context=2.0).render(
                layouts, range(10)
            )
            for of in (whole, kept)
        ]
        for one, other in zip(*drawn, strict=True):
            np.testing.assert_array_equal(one.image, other.image)
            assert (one.image != ground).any()

    @pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
    def test_training_sees_the_same_views(self, dtype):
        whole = self.exemplars(dtype)
        kept = [one.without_the_rest(context=2.0) for one in whole]
        views = [
            defect_views(of, count=60, size=32, context=2.0, poses=ALL_POSES, rng=np.random.default_rng(0))
            for of in (whole, kept)
        ]
        for one, other in zip(*views, strict=True):
            np.testing.assert_array_equal(one.picture, other.picture)
            np.testing.assert_array_equal(one.mask_image, other.mask_image)

    def test_the_gate_measures_the_same(self):
        """Of 16 bits, where the range of all the picture counts."""
        whole = self.exemplars(np.uint16)
        kept = [one.without_the_rest(context=1.1) for one in whole]
        on = {"features": {"enabled": True}, "copies": {"exempt": ()}}
        measured = []
        for of in (whole, kept):
            gate = Gate(of, rules=GateConfig.model_validate(on).rules())
            cases = [Case(one.image[::-1], one.image, one.foreground, "tile", "dent", "copy_paste") for one in whole]
            verdicts = [gate.judge(case, sample_id=0, stored=None) for case in cases]
            measured.append([(verdict, gate._real_step(case)) for verdict, case in zip(verdicts, cases, strict=True)])
        assert measured[0] == measured[1]
        assert all("feature_distance" in verdict.measures for verdict, _ in measured[0])

    def test_a_part_of_a_part_lies_where_it_lay(self):
        one = self.exemplars(np.uint8)[0]
        again = one.without_the_rest(context=4.0).without_the_rest(context=2.0)
        direct = one.without_the_rest(context=2.0)
        assert (again.place.left, again.place.top, again.place.size) == (
            direct.place.left,
            direct.place.top,
            (700, 900),
        )
        np.testing.assert_array_equal(again.image, direct.image)


def test_a_picture_one_pixel_high_is_an_exemplar_like_any_other():
    exemplar = Exemplar(np.full((1, 40, 1), 90, np.uint8), np.ones((1, 40), bool), "tile", "dent", source="m.png")
    instance = Instance(id=1, defect="dent", mask=np.ones((3, 9), bool), left=10, top=10)
    crop = crop_around(instance.bbox, image_size=(48, 48))
    inside = instance_mask(instance, crop)
    warped = ExemplarBank([exemplar]).warped(instance, crop, inside, category="tile", seed=0)
    np.testing.assert_allclose(warped[inside], 90 / 127.5 - 1, atol=1e-5)


class TestContrast:
    def test_brightness_and_contrast_inside_are_those_of_the_source(self):
        rng = np.random.default_rng(0)
        foreground = np.zeros((20, 24), bool)
        foreground[4:12, 5:20] = True
        hue = np.array([0.3, 0.0, -0.3])  # what differs between channels is no contrast
        source, drawn = rng.normal(-0.2, 0.1, (20, 24, 3)) + hue, rng.normal(0.1, 0.07, (20, 24, 3))
        kept = with_contrast_of(source, drawn, foreground)
        np.testing.assert_allclose(kept[foreground].mean(axis=0), source[foreground].mean(axis=0), atol=0.01)
        contrast = [(each[foreground] - each[foreground].mean(axis=0)).std() for each in (kept, source)]
        assert contrast[0] == pytest.approx(contrast[1], rel=0.01)
        np.testing.assert_array_equal(kept[~foreground], drawn[~foreground])
        shape = np.corrcoef(kept[foreground][:, 0], drawn[foreground][:, 0])[0, 1]
        assert shape == pytest.approx(1, abs=1e-3)

    def test_a_flat_drawing_is_not_blown_up_to_noise(self):
        rng = np.random.default_rng(0)
        foreground = np.ones((8, 8), bool)
        source, drawn = rng.normal(0, 0.3, (8, 8, 1)), rng.normal(0, 0.01, (8, 8, 1))
        assert with_contrast_of(source, drawn, foreground).std() == pytest.approx(2 * drawn.std(), rel=1e-6)
