"""Renderers of whole pictures beside a baseline: what must follow from the pairs and from the networks alone."""

import weakref

import torch

from fastsynth.recipes.photo_judging import nearest_photos, style_leak
from generators.batches import Batch
from generators.pairs import PairSource


def test_the_nearest_photo_of_a_training_layout_is_its_own(pairs):
    known = next(pairs.middles(shrink=1, batch_size=8))
    nearest, training = nearest_photos(pairs, known)
    assert torch.equal(nearest, known.image)
    assert training.shape == known.image.shape
    hidden = pairs.samples(2, shrink=1)
    nearest, _ = nearest_photos(pairs, hidden)
    agreement = [(hidden.labels[0] == labels).float().mean() for batch in pairs.middles(shrink=1, batch_size=8)
                 for labels in batch.labels]  # fmt: skip
    images = torch.cat([batch.image for batch in pairs.middles(shrink=1, batch_size=8)])
    assert torch.equal(nearest[0], images[int(torch.stack(agreement).argmax())])


def test_of_the_training_photos_only_the_picks_are_kept(pairs, monkeypatch):
    wanted, everything = pairs.samples(2, shrink=1), torch.cat([b.image for b in pairs.middles(shrink=1, batch_size=8)])
    seen = []

    def one_by_one(*, shrink, batch_size):
        for batch in PairSource.middles(pairs, shrink=shrink, batch_size=1):
            seen.append(weakref.ref(batch.image))
            yield batch
            del batch
            assert sum(image() is not None for image in seen) <= 1

    monkeypatch.setattr(pairs, "middles", one_by_one)
    _, training = nearest_photos(pairs, wanted)
    assert len(seen) == len(everything)
    assert torch.equal(training, everything[[0, -1]])


def test_a_style_that_changes_nothing_leaks_nothing_and_others_do(fit_pix2pixhd, pairs, tmp_path):
    model, batch = fit_pix2pixhd(pairs, tmp_path, steps=(4,)), next(pairs.middles(shrink=1, batch_size=8))
    assert style_leak(model, batch, seed=0) > 0
    none = Batch(batch.labels[:0], batch.instances[:0], batch.image[:0])
    assert style_leak(model, none, seed=0) == 0
    model.bank.centres.zero_()
    assert style_leak(model, batch, seed=0) == 0
