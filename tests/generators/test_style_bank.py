"""The style bank of a source of photos: every instance that has a class, wherever in the picture it is."""

import numpy as np
import pytest
import torch

from fastsynth.files import atomic_write
from fastsynth.images import encode_png
from generators.pairs import PairSource, Palette, find_pairs
from generators.style import StyleEncoder
from generators.style_bank import fit_bank

COLUMNS = np.repeat([2, 0, 9, 0, 1], [8, 16, 12, 24, 4])
"""Classes of a wide picture's columns: class 2 is on the left, class 1 on the right, 9 is no class."""


@pytest.fixture
def source(tmp_path):
    rng = np.random.default_rng(0)
    for number in range(2):
        photo = rng.integers(0, 256, (16, len(COLUMNS), 3), np.uint8)
        atomic_write(tmp_path / "photos" / f"{number}.png", encode_png(photo))
        atomic_write(tmp_path / "layouts" / f"{number}.png", encode_png(COLUMNS[None].repeat(16, 0).astype(np.uint8)))
    return PairSource(
        find_pairs(tmp_path / "photos", tmp_path / "layouts", None),
        Palette({"wall": 0, "door": 1, "window": 2}, ignore=9),
        load_size=16,
        crop_size=16,
        flip=False,
        held_out=0,
        seed=0,
    )


@pytest.fixture
def encoder():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return StyleEncoder(width=4, num_downsamples=2).eval()


@pytest.mark.parametrize("smallest", [0.0, 0.4])
def test_it_holds_the_look_of_every_instance_that_has_a_class_and_is_large_enough(source, encoder, smallest):
    # more centres than instances: each is a centre of its own
    bank = fit_bank(
        encoder, source, num_centres=50, smallest_instance=smallest, seed=0, shrink=1, ignore=Palette.ignore_id
    )
    looks = {0: [], 1: [], 2: []}
    for batch in source.every(shrink=1, batch_size=1):
        with torch.no_grad():
            features = encoder.features(batch.image)[0]
        for instance in batch.instances[0].unique():
            inside = batch.instances[0] == instance
            label = int(batch.labels[0][inside][0])
            if label != Palette.ignore_id and inside.float().mean() >= smallest:
                looks[label].append(features[:, inside].mean(dim=1).tolist())
    assert sum(len(wanted) for wanted in looks.values()) == {0.0: 12, 0.4: 10}[smallest]
    for label, wanted in looks.items():
        if wanted:
            np.testing.assert_allclose(sorted(bank.of_class(label).tolist()), sorted(wanted), atol=1e-5)


def test_a_threshold_above_every_instance_says_so(source, encoder):
    with pytest.raises(ValueError, match="lower smallest_instance"):
        fit_bank(encoder, source, num_centres=2, smallest_instance=0.9, seed=0, shrink=1, ignore=Palette.ignore_id)
