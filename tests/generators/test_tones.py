"""Tones: what is drawn with them is as bright, varied and contrasty as the photos, in the order of the drawings."""

import dataclasses

import numpy as np
import pytest
import torch

from generators.batches import CropSource
from generators.layout_model import LayoutModel
from generators.surface import FLOOR
from generators.tone_fitting import fit_tones
from generators.tones import GAINS, RANKS, Tone, fit_tone


def instance(shade: float, contrast: float, count: int = 400, seed: int = 0) -> np.ndarray:
    """Pixels of exactly this mean and deviation from it, in all channels alike."""
    noise = np.random.default_rng(seed).normal(size=(3, count))
    noise -= noise.mean(1, keepdims=True)
    return shade + contrast * noise / np.sqrt((noise**2).mean())


def toned(tone: Tone, pixels: np.ndarray) -> np.ndarray:
    canvas, inside = torch.zeros(3, 2, pixels.shape[1]), torch.zeros(2, pixels.shape[1], dtype=torch.bool)
    inside[1] = True
    canvas[:, inside] = torch.from_numpy(pixels).float()
    found = tone.of(canvas, inside)
    assert (found[:, ~inside] == 0).all()
    return found[:, inside].numpy()


def test_drawings_take_the_brightness_and_the_contrast_of_their_rank():
    """Photographed from black to faint, drawn all nearly grey: spread again, in the same order; a median stays one."""
    shades, greys = np.linspace(-0.6, 0.2, 41), np.linspace(-0.21, -0.19, 41)
    contrasts, flat = np.linspace(0.04, 0.12, 41), np.linspace(0.03, 0.07, 41)
    rng = np.random.default_rng(0)
    photos = [instance(shade, contrast) for shade, contrast in zip(shades, rng.permutation(contrasts), strict=True)]
    drawn = [instance(grey, contrast) for grey, contrast in zip(greys, rng.permutation(flat), strict=True)]
    tone = fit_tone(photos, drawn)
    for rank in (0.1, 0.5, 0.9):
        found = toned(tone, instance(np.quantile(greys, rank), np.quantile(flat, rank), seed=1))
        assert found.mean() == pytest.approx(np.quantile(shades, rank), abs=1e-3)
        assert (found - found.mean(1, keepdims=True)).std() == pytest.approx(np.quantile(contrasts, rank), abs=1e-3)


def test_a_hue_that_drawings_lack_is_added():
    reddish = np.array([0.1, -0.05, -0.05])[:, None]
    tone = fit_tone([instance(0, 0.1) + reddish] * 3, [instance(0, 0.1)] * 3)
    np.testing.assert_allclose(toned(tone, instance(0, 0.1, seed=2)).mean(1), reddish[:, 0], atol=1e-6)


@pytest.mark.parametrize(("photographed", "drawn", "gain"), [(0.3, 0.001, GAINS[1]), (0.001, 0.1, GAINS[0])])
def test_a_gain_stays_within_its_limits(photographed, drawn, gain):
    tone = fit_tone([instance(0, photographed)], [instance(0, drawn)])
    assert toned(tone, instance(0, drawn)).std() == pytest.approx(gain * drawn, rel=1e-3)


def test_nothing_to_compare_changes_nothing():
    assert fit_tone([], [instance(0, 0.1)]) == fit_tone([instance(0, 0.1)], []) == Tone()
    np.testing.assert_allclose(toned(Tone(), instance(0.2, 0.1)), instance(0.2, 0.1), atol=1e-6)
    flat = toned(fit_tone([instance(0, 0.1)], [instance(0.5, 0)]), np.full((3, 50), 0.5))
    np.testing.assert_allclose(flat, 0, atol=1e-6)


def test_what_leaves_the_range_of_a_picture_is_cut():
    bright = toned(fit_tone([instance(0.9, 0.2)], [instance(0, 0.2)]), instance(0, 0.2))
    assert bright.max() == 1


@pytest.mark.parametrize("kind", ["crn", "pix2pixhd"])
def test_a_trained_model_makes_up_what_its_training_defects_lack(kind, fit_crn, fit_pix2pixhd, crops, tmp_path):
    fit = {"crn": fit_crn, "pix2pixhd": fit_pix2pixhd}[kind]
    model: LayoutModel = fit(crops, tmp_path / "training", steps=(8,))
    tones = fit_tones(model, crops)
    assert tones[:2] == (Tone(), Tone())
    for label in (2, 3):
        photos, surfaces = crops.of_class(label, 4), crops.on_normals(label, 4)
        assert len(photos.labels) == len(surfaces.labels) == 4  # all it has
        torch.testing.assert_close(photos.labels == label, surfaces.labels == label)
        lent = crops.normals[np.arange(4) % len(crops.normals)]
        given = torch.from_numpy(crops.pictures[lent]).float() / 127.5 - 1
        ratios = ((surfaces.image + 1) / 2 + FLOOR) / ((given + 1) / 2 + FLOOR)
        assert all(ratio.std() < 0.05 for ratio in ratios)  # the normal pictures, brighter or darker
        shades = []
        for number in range(4):
            context, inside = surfaces.context[number], surfaces.labels[number] == label
            drawn = model.draw(surfaces.labels[number], surfaces.instances[number], seed=number, context=context)
            rendered = surfaces.part(slice(number, number + 1)).composite(drawn[None])[0]
            shades.append(rendered[:, inside].mean().item())
        np.testing.assert_allclose(tones[label].drawn_means, np.quantile(shades, RANKS), atol=1e-5)
        seen = [
            image[:, labels == label].mean().item() for image, labels in zip(photos.image, photos.labels, strict=True)
        ]
        np.testing.assert_allclose(tones[label].means, np.quantile(seen, RANKS), atol=1e-5)
    complete = dataclasses.replace(model, tones=tones)
    complete.save_pretrained(tmp_path / "model")
    assert LayoutModel.from_pretrained(tmp_path / "model").tones == tones
    assert complete.tone_of(3) == tones[3]
    assert model.tone_of(3) == Tone()


def test_a_class_that_no_crop_shows_stays_as_it_is(fit_crn, crops, tmp_path):
    classes = np.where(crops.classes == 3, 2, crops.classes)
    source = CropSource(
        crops.pictures, crops.masks, crops.objects, classes, class_names=crops.class_names, normal_share=0.2
    )
    tones = fit_tones(fit_crn(source, tmp_path, steps=(2,)), source)
    assert tones[3] == Tone() != tones[2]
