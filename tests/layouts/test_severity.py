"""The severity dial: what it promises of area and contrast, and that it is written down."""

import numpy as np
import pytest

from fastsynth.data.store import Store, read_manifest
from fastsynth.layouts.exemplar import Exemplar, ExemplarBank
from fastsynth.layouts.parts import RealMask
from fastsynth.layouts.sampler import LayoutConfig, LayoutSampler
from fastsynth.layouts.severity import with_severity
from fastsynth.types import Instance, Layout, Sample
from generators.reference import ReferenceRenderer, copy_paste

SEVERITIES = (0.5, 1.0, 2.0)


def surface(dtype):
    return np.random.default_rng(0).normal(0.5, 0.02, (128, 128, 1)) * np.iinfo(dtype).max


def dent():
    y, x = np.ogrid[:128, :128]
    return ((x - 60) / 16) ** 2 + ((y - 70) / 10) ** 2 <= 1


def draw(severity_range, seed, dtype=np.uint8):
    """A sample of a dark dent, copied from a real one."""
    foreground = dent()
    real = surface(dtype)
    real[foreground] *= 0.7
    sampler = LayoutSampler(
        [RealMask("m.png", "dent", foreground)],
        **{**LayoutConfig().model_dump(), "severity_range": severity_range, "procedural_share": 0.0},
    )
    background = surface(dtype).astype(dtype)
    region = np.ones(background.shape[:2], bool)
    layout = sampler.draw(background, "s.png", "tile", "dent", np.random.default_rng(seed), region=region)
    bank = ExemplarBank([Exemplar(real.astype(dtype), foreground, "tile", "dent", "m.png")])
    (sample,) = ReferenceRenderer("copy_paste", copy_paste(bank, blend="light"), context=2.0).render([layout], [seed])
    return sample


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_area_and_contrast_of_what_changed_grow_with_the_severity(dtype):
    areas, contrasts = [], []
    for severity in SEVERITIES:
        samples = [with_severity(draw((severity, severity), seed, dtype)) for seed in range(10)]
        changes = [np.abs(s.image.astype(float) - s.layout.background)[..., 0] for s in samples]
        areas.append(np.mean([(change > 0).sum() for change in changes]))
        # the core alone: how far the border fades in does not depend on the severity
        contrasts.append(np.mean([np.percentile(change[change > 0], 75) for change in changes]))
    np.testing.assert_allclose(np.divide(areas, areas[1]), SEVERITIES, rtol=0.1)
    np.testing.assert_allclose(np.divide(contrasts, contrasts[1]), np.sqrt(SEVERITIES), rtol=0.1)


def test_the_difference_is_multiplied_and_nothing_outside_changes():
    sample = draw((4.0, 4.0), 3)
    stronger = with_severity(sample)
    background = sample.layout.background.astype(int)
    expected = np.clip(background + 2 * (sample.image.astype(int) - background), 0, 255)
    np.testing.assert_array_equal(stronger.image, expected)
    outside = sample.mask == 0
    np.testing.assert_array_equal(stronger.image[outside], sample.layout.background[outside])


def test_severity_1_changes_neither_layout_nor_sample():
    sample = draw((1.0, 1.0), 3)
    assert with_severity(sample) is sample
    assert {instance.severity for instance in sample.layout.instances} == {1.0}


def test_each_instance_has_its_own_and_the_topmost_counts():
    background = np.full((20, 20, 1), 100, np.uint8)
    square = np.ones((8, 8), bool)
    layout = Layout(
        background,
        "s.png",
        "tile",
        (Instance(1, "a", square, 2, 2, severity=4.0), Instance(2, "a", square, 6, 6, severity=0.25)),
    )
    image = np.where(layout.foreground[..., None], 110, background).astype(np.uint8)
    drawn = with_severity(Sample(image, layout.foreground.astype(np.uint8) * 255, layout, 0, "flat")).image[..., 0]
    assert (drawn[3, 3], drawn[7, 7], drawn[0, 0]) == (120, 105, 100)


def test_the_range_is_drawn_from_and_recorded(tmp_path):
    identity = dict.fromkeys(("config_sha256", "data_sha256", "version"), "x")
    found = []
    with Store.open(
        tmp_path / "store", identity={**identity, "model_sha256": None, "run_seed": 0, "defects": ["dent"]}
    ) as store:
        for number in range(12):
            sample = with_severity(draw((0.5, 2.0), number))
            found.append(sample.layout.instances[0].severity)
            store.write(number, sample, category="tile", source_sha256="x", extra={})
    recorded = [line["instances"][0]["severity"] for line in read_manifest(tmp_path / "store")]
    assert recorded == found
    assert all(0.5 <= severity <= 2 for severity in found)
    assert min(found) < 0.8 < 1.25 < max(found)
