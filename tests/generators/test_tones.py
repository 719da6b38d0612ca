"""Tones: what is found is what was changed, what is drawn with them is as bright and as varied as the photos."""

import dataclasses

import numpy as np
import pytest
import torch

from generators.batches import CropSource
from generators.layout_model import LayoutModel
from generators.tone_fitting import fit_tones
from generators.tones import GAINS, Tone, fit_tone


def pixels(seed: int, count: int = 50) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-0.4, 0.4, (3, count))


def test_what_was_taken_from_the_photos_is_found():
    """Drawings of half the contrast, and 0.1 too bright in red."""
    photos = [pixels(seed, 20 + seed) for seed in range(5)]
    drawn = [p.mean(1, keepdims=True) + 0.625 * (p - p.mean(1, keepdims=True)) for p in photos]
    for picture in drawn:
        picture[0] += 0.1
    tone = fit_tone(zip(photos, drawn, strict=True))
    assert tone.gain == pytest.approx(1 / 0.625)
    np.testing.assert_allclose(tone.shift, [-0.1, 0, 0], atol=1e-12)
    canvas, inside = torch.zeros(3, 4, 20), torch.zeros(4, 20, dtype=torch.bool)
    inside[1] = True
    canvas[:, inside] = torch.from_numpy(drawn[0]).float()
    toned = tone.of(canvas, inside)
    np.testing.assert_allclose(toned[:, inside].numpy(), photos[0], atol=1e-6)
    assert (toned[:, ~inside] == 0).all()


def test_instances_of_many_shades_do_not_count_as_contrast():
    """Flat ones, half of them dark and half bright, photographed with a grain: the grain is what they lack."""
    rng = np.random.default_rng(0)
    shades = [np.full((3, 40), shade) for shade in (-0.5, 0.5)]
    pairs = [(shade + rng.normal(0, 0.03, (3, 40)), shade + rng.normal(0, 0.02, (3, 40))) for shade in shades * 50]
    assert fit_tone(pairs).gain == pytest.approx(1.5, abs=0.05)


@pytest.mark.parametrize(("factor", "limit"), [(0.01, GAINS[1]), (100, GAINS[0])])
def test_a_gain_stays_within_its_limits(factor, limit):
    assert fit_tone([(pixels(0), factor * pixels(1))]).gain == limit


def test_nothing_to_compare_changes_nothing():
    assert fit_tone([]) == Tone()
    assert fit_tone([(pixels(0), np.zeros((3, 50)))]).gain == 1
    picture = torch.from_numpy(pixels(0, 64).reshape(3, 8, 8)).float()
    torch.testing.assert_close(Tone().of(picture, torch.ones(8, 8, dtype=torch.bool)), picture)


def test_what_leaves_the_range_of_a_picture_is_cut():
    inside = torch.ones(8, 8, dtype=torch.bool)
    toned = Tone(2.0, (0.5, 0.5, 0.5)).of(torch.linspace(-1, 1, 192).view(3, 8, 8), inside)
    assert toned.min() >= -1
    assert toned.max() <= 1


@pytest.mark.parametrize("kind", ["crn", "pix2pixhd"])
def test_a_trained_model_makes_up_what_its_training_defects_lack(kind, fit_crn, fit_pix2pixhd, crops, tmp_path):
    fit = {"crn": fit_crn, "pix2pixhd": fit_pix2pixhd}[kind]
    model: LayoutModel = fit(crops, tmp_path / "training", steps=(8,))
    tones = fit_tones(model, crops)
    assert tones[:2] == (Tone(), Tone())
    for label in (2, 3):
        batch = crops.of_class(label, 4)
        assert len(batch.labels) == 4  # all it has
        gaps = []
        for number in range(4):
            context, inside = batch.context[number], batch.labels[number] == label
            drawn = model.draw(batch.labels[number], batch.instances[number], seed=number, context=context)
            rendered = batch.part(slice(number, number + 1)).composite(drawn[None])[0]
            gaps.append((batch.image[number] - rendered)[:, inside].mean(1).numpy())
        np.testing.assert_allclose(tones[label].shift, np.mean(gaps, axis=0), atol=1e-5)
        assert GAINS[0] <= tones[label].gain <= GAINS[1]
    toned = dataclasses.replace(model, tones=tones)
    toned.save_pretrained(tmp_path / "model")
    assert LayoutModel.from_pretrained(tmp_path / "model").tones == tones
    assert toned.tone_of(3) == tones[3]
    assert model.tone_of(3) == Tone()


def test_a_class_that_no_crop_shows_stays_as_it_is(fit_crn, crops, tmp_path):
    classes = np.where(crops.classes == 3, 2, crops.classes)
    source = CropSource(
        crops.pictures, crops.masks, crops.objects, classes, class_names=crops.class_names, normal_share=0.2
    )
    tones = fit_tones(fit_crn(source, tmp_path, steps=(2,)), source)
    assert tones[3] == Tone() != tones[2]
