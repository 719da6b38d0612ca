"""Band by band a convolution gives what it gives at once, alone and inside the renderers."""

import itertools
from typing import NamedTuple

import pytest
import torch
from torch import nn

from generators import bands
from generators.bands import BandedConv2d, BandedConvTranspose2d
from generators.crn import CRN
from generators.encoding import one_hot
from generators.pix2pixhd import Pix2PixHDGenerator


@pytest.fixture
def small_bands(monkeypatch):
    """Everything is large."""
    monkeypatch.setattr(bands, "LARGEST", 64)


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def made(build, *arguments, **settings) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build(*arguments, **settings).eval()


@pytest.mark.parametrize(
    ("kernel", "stride", "mode", "height"),
    [*itertools.product((1, 3, 7), (1,), ("zeros", "reflect"), (9, 33, 40)), (3, 2, "zeros", 33), (3, 2, "zeros", 40)],
)
@torch.no_grad()
def test_bands_of_a_convolution_are_the_convolution(small_bands, kernel, stride, mode, height):
    settings = {"stride": stride, "padding": kernel // 2, "padding_mode": mode}
    banded, whole = (made(kind, 3, 5, kernel, **settings) for kind in (BandedConv2d, nn.Conv2d))
    x = noise(2, 3, height, 12)
    assert bands.band_rows(x, banded, height) == 8
    torch.testing.assert_close(banded(x), whole(x), atol=1e-5, rtol=0)


@pytest.mark.parametrize("height", [8, 9, 17])
@torch.no_grad()
def test_bands_of_a_transposed_convolution_are_the_convolution(small_bands, height):
    settings = {"stride": 2, "padding": 1, "output_padding": 1}
    banded, whole = (made(kind, 3, 5, 3, **settings) for kind in (BandedConvTranspose2d, nn.ConvTranspose2d))
    x = noise(2, 3, height, 12)
    torch.testing.assert_close(banded(x), whole(x), atol=1e-5, rtol=0)


@pytest.mark.parametrize("upsampling", ["transposed", "resize"])
@pytest.mark.parametrize("norm", ["instance", "class_adaptive"])
def test_a_local_enhancer_draws_the_same_in_bands(monkeypatch, upsampling, norm):
    model = made(
        Pix2PixHDGenerator, 4, edges=False, width=8, num_downsamples=2, num_blocks=1, num_enhancers=1, norm=norm,
        upsampling=upsampling,
    )  # fmt: skip
    drawing = drawn(model, monkeypatch)
    assert drawing.banded > 0
    torch.testing.assert_close(drawing.in_bands, drawing.whole, atol=1e-5, rtol=0)


def test_crn_draws_the_same_in_bands(monkeypatch):
    drawing = drawn(made(CRN, 4, widths=(16, 12, 8, 8), norm="joint"), monkeypatch)
    assert drawing.banded > 0
    torch.testing.assert_close(drawing.in_bands, drawing.whole, atol=1e-5, rtol=0)


class Drawing(NamedTuple):
    """The same layout drawn at once and in bands; banded: how many maps were put together from bands."""

    whole: torch.Tensor
    in_bands: torch.Tensor
    banded: int


@torch.no_grad()
def drawn(model: nn.Module, monkeypatch) -> Drawing:
    layout = one_hot(torch.arange(4).repeat_interleave(24)[None, :, None].expand(1, 96, 64), num_classes=4)
    joined, heights = bands.joined, []

    def counted(parts, height):
        heights.append(height)
        return joined(parts, height)

    monkeypatch.setattr(bands, "joined", counted)
    whole = model(layout)
    assert not heights
    monkeypatch.setattr(bands, "LARGEST", 1024)
    return Drawing(whole, model(layout), len(heights))


def test_with_gradients_nothing_is_cut(small_bands):
    conv = made(BandedConv2d, 3, 5, 3, padding=1)
    assert bands.band_rows(noise(1, 3, 40, 40), conv, 40) == 40
    conv(noise(1, 3, 40, 40)).sum().backward()
    assert conv.weight.grad is not None
