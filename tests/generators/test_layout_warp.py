"""Warped layouts: pairs of class and instance stay together, nothing new appears, the seed decides."""

import pytest
import torch

from generators.batches import Batch
from generators.layout_warp import NO_WARP, Warp, bend, warp_layout


def layout(size: int = 48) -> tuple[torch.Tensor, torch.Tensor]:
    """Discs of class 1 with ids above 16 bits, on class 0."""
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    instances = torch.zeros(2, size, size, dtype=torch.int32)
    for number, (top, left) in enumerate([(14, 14), (32, 30)]):
        instances[:, (y - top) ** 2 + (x - left) ** 2 < 80] = 2**31 - 1 - number  # beyond what a float32 can hold
    return (instances > 0).to(torch.uint8), instances


def warp(seed: int = 0, *, amplitude: float = 3.0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return warp_layout(*layout(), Warp(amplitude, 16), generator=generator)


def test_without_amplitude_nothing_moves():
    for found, wanted in zip(warp(amplitude=0), layout(), strict=True):
        torch.testing.assert_close(found, wanted)


def test_shapes_change_and_ids_stay_what_they_were():
    labels, instances = warp()
    assert (instances != layout()[1]).float().mean() > 0.02
    assert set(instances.unique().tolist()) == set(layout()[1].unique().tolist())
    torch.testing.assert_close(labels, (instances > 0).to(torch.uint8))
    assert labels.dtype == torch.uint8
    assert instances.dtype == torch.int32


def test_pixels_move_about_as_far_as_the_amplitude():
    size = 64
    columns = torch.arange(size).expand(4, size, size)
    moved, _ = warp_layout(columns, columns, Warp(3.0, 8), generator=torch.Generator().manual_seed(0))
    shift = (moved - columns)[..., 12:-12].double()
    assert 1.5 < shift.std() < 4.5
    assert (moved.diff(dim=1).abs().double().mean()) < 3  # smooth: neighbours move alike


def test_the_generator_decides_and_samples_of_a_batch_differ():
    torch.testing.assert_close(warp(1)[1], warp(1)[1])
    assert (warp(1)[1] != warp(2)[1]).any()
    assert (warp(1)[1][0] != warp(1)[1][1]).any()


def test_maps_of_different_shapes_are_refused():
    with pytest.raises(ValueError, match="pass equal shapes"):
        warp_layout(layout()[0], layout()[1][:1], Warp(1, 8), generator=torch.Generator())


def test_a_batch_is_bent_with_its_photo_left_alone_and_not_at_all_around_holes():
    labels, instances = (each.long() for each in layout())
    batch = Batch(labels, instances, torch.zeros(2, 3, 48, 48))
    bent = bend(batch, Warp(2.0, 3.0), generator=torch.Generator().manual_seed(0))
    assert bent.image is batch.image
    assert (bent.labels != labels).any()
    holed = batch._replace(hole=labels[:, None] > 0)
    for unchanged in (
        bend(holed, Warp(2.0, 3.0), generator=torch.Generator()),
        bend(batch, NO_WARP, generator=torch.Generator()),
    ):
        torch.testing.assert_close(unchanged.labels, labels)
        torch.testing.assert_close(unchanged.instances, instances)
