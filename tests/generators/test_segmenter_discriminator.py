"""The segmenting discriminator: torch's weighted cross-entropy as oracle, balance, mixing along class borders."""

import pytest
import torch
from torch.nn import functional as F

from generators.encoding import one_hot
from generators.segmenter_discriminator import (
    SegmenterDiscriminator,
    class_balance,
    label_mix,
    label_mix_loss,
    segmentation_loss,
    segmenter_loss,
)


def tiny(**arguments) -> SegmenterDiscriminator:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return SegmenterDiscriminator(3, **{"widths": (4, 6, 8), **arguments})


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def labels() -> torch.Tensor:
    """Class 0 nearly everywhere, class 2 in one corner, class 1 nowhere."""
    ids = torch.zeros(2, 8, 12, dtype=torch.long)
    ids[0, :2, :2] = 2
    return ids


def planes() -> torch.Tensor:
    return one_hot(labels(), num_classes=3)


def test_logits_for_every_class_and_fake_at_the_image_s_size():
    assert tiny()(random(2, 3, 8, 12)).shape == (2, 4, 8, 12)
    with pytest.raises(ValueError, match="multiples of 4"):
        tiny()(random(2, 3, 8, 10))


def test_classes_that_are_there_weigh_the_same():
    balance = class_balance(planes())
    assert balance.tolist() == pytest.approx([192 / (2 * 188), 0, 192 / (2 * 4)])
    assert (balance * planes().sum((0, 2, 3))).tolist() == pytest.approx([96, 0, 96])


def test_it_is_torch_s_weighted_cross_entropy():
    logits = random(2, 4, 8, 12)
    weight = torch.cat([torch.zeros(1), class_balance(planes())])
    wanted = F.cross_entropy(logits, labels() + 1, weight=weight, reduction="none").mean()
    torch.testing.assert_close(segmentation_loss(logits, planes()), wanted)
    fake = random(2, 4, 8, 12, seed=1)
    wanted = wanted + F.cross_entropy(fake, torch.zeros_like(labels()))
    torch.testing.assert_close(segmenter_loss(logits, fake, planes()), wanted)


def test_pixels_without_a_class_do_not_count():
    logits, known = random(2, 4, 8, 12), planes()
    known[:, :, :, 6:] = 0
    torch.testing.assert_close(segmentation_loss(logits, known), segmentation_loss(logits[..., :6], known[..., :6]))


def test_each_class_of_a_mixed_image_is_all_real_or_all_rendered():
    real, fake = torch.ones(2, 3, 8, 12), torch.zeros(2, 3, 8, 12)
    seen = set()
    for seed in range(20):
        mixed = label_mix(real, fake, planes(), generator=torch.Generator().manual_seed(seed))
        corner = mixed.image[0, :, :2, :2].unique().tolist()
        rest = mixed.image[0][:, labels()[0] == 0].unique().tolist()
        assert len(corner) == len(rest) == 1
        seen.add((corner[0], rest[0]))
        torch.testing.assert_close(mixed.image, mixed.mask.expand(-1, 3, -1, -1))
    assert seen == {(0, 0), (0, 1), (1, 0), (1, 1)}


def test_a_discriminator_that_judges_pixel_by_pixel_loses_nothing_by_mixing():
    real, fake = random(2, 3, 8, 12), random(2, 3, 8, 12, seed=1)
    mixed = label_mix(real, fake, planes(), generator=torch.Generator().manual_seed(3))
    assert label_mix_loss(3 * mixed.image, 3 * real, 3 * fake, mixed.mask) == 0
    assert label_mix_loss(mixed.image.roll(1, 2), real.roll(1, 2), fake.roll(1, 2), mixed.mask) > 0


def test_it_learns_to_tell_classes_and_renders_apart():
    model = tiny().train()
    image = torch.where(labels()[:, None] == 2, 1.0, -1.0).expand(-1, 3, -1, -1) + 0.1 * random(2, 3, 8, 12)
    fake = 0.3 * random(2, 3, 8, 12, seed=1)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(40):
        loss = segmenter_loss(model(image), model(fake), planes())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]
    assert (model(image).argmax(1) == labels() + 1).float().mean() > 0.9


@pytest.mark.parametrize("spectral_norm", [False, True])
def test_a_saved_discriminator_comes_back(spectral_norm, tmp_path):
    model = tiny(spectral_norm=spectral_norm).eval()
    model.save_pretrained(tmp_path)
    loaded = SegmenterDiscriminator.from_pretrained(tmp_path)
    torch.testing.assert_close(loaded(random(1, 3, 8, 8)), model(random(1, 3, 8, 8)))
