"""Laws of tiled prediction."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

from segment.data import to_tensor
from segment.models import build_segmenter
from segment.predict import predict, tile_starts


class Constant(nn.Module):
    def __init__(self):
        super().__init__()
        self.logit = nn.Parameter(torch.tensor(0.4))

    def forward(self, x):
        return self.logit.expand(x.shape[0], 1, *x.shape[2:])


class Pointwise(nn.Module):
    """Looks at one pixel only, so that tiling cannot matter."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(3.0))

    def forward(self, x):
        return self.scale * x.mean(dim=1, keepdim=True)


class Blur(nn.Module):
    """Looks 4 px far."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(3.0))

    def forward(self, x):
        return self.scale * nn.functional.avg_pool2d(x.mean(dim=1, keepdim=True), 9, 1, 4, count_include_pad=False)


def picture(*size, dtype=np.uint8, channels=1):
    return np.random.default_rng(0).integers(0, np.iinfo(dtype).max, (*size, channels), dtype=dtype)


SIZES = [(1, 1), (16, 16), (24, 300), (33, 7), (64, 64), (97, 200), (130, 31)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("overlap", [0, 1, 16, 32, 63])
def test_a_constant_network_gives_a_constant_map_of_any_size(size, overlap):
    result = predict(Constant(), picture(*size), tile=64, overlap=overlap)
    assert result.shape == size
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, torch.tensor(0.4).sigmoid().item(), atol=1e-6)
    assert result.max() <= 1


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("dtype", "channels"), [(np.uint8, 3), (np.uint16, 1)])
def test_a_pointwise_network_does_not_notice_the_tiles(size, dtype, channels):
    image = picture(*size, dtype=dtype, channels=channels)
    expected = Pointwise()(to_tensor(image)[None])[0, 0].sigmoid().detach().numpy()
    np.testing.assert_allclose(predict(Pointwise(), image, tile=64, overlap=16, batch=3), expected, atol=1e-6)


@pytest.mark.parametrize("size", [(64, 64), (33, 7), (20, 50)])
def test_an_image_that_fits_one_tile_is_predicted_in_one_go(size):
    model = build_segmenter(
        arch="Unet",
        encoder_name="tu-mobilenetv3_small_050",
        encoder_weights=None,
        decoder_channels=(16, 16, 8, 8, 8),
        seed=0,
    ).eval()
    image = picture(*size)
    height, width = size
    whole = np.pad(image, [(0, -height % 32), (0, -width % 32), (0, 0)], mode="reflect")
    with torch.no_grad():
        expected = model(to_tensor(whole)[None])[0, 0].sigmoid().numpy()[:height, :width]
    np.testing.assert_array_equal(predict(model, image, tile=64, overlap=16), expected)


def test_tile_borders_are_hidden_by_the_overlap():
    image = picture(160, 160)
    whole = predict(Blur(), image, tile=160, overlap=0)
    error = [np.abs(predict(Blur(), image, tile=64, overlap=overlap) - whole).max() for overlap in (0, 32)]
    assert error[1] < error[0] / 3


def test_batch_size_does_not_matter():
    image = picture(150, 150)
    one, many = (predict(Blur(), image, tile=64, overlap=16, batch=batch) for batch in (1, 16))
    np.testing.assert_allclose(one, many, atol=1e-6)


@pytest.mark.parametrize(("size", "tile", "overlap"), [(64, 64, 16), (65, 64, 0), (1000, 64, 63), (300, 128, 32)])
def test_tiles_cover_everything_and_share_the_overlap(size, tile, overlap):
    starts = tile_starts(size, tile, overlap)
    assert starts[0] == 0
    assert starts[-1] == size - tile
    assert all(0 < b - a <= tile - overlap for a, b in pairwise(starts))


@pytest.mark.parametrize(("tile", "overlap"), [(50, 0), (0, 0), (64, 64), (64, -1)])
def test_impossible_tiles_are_refused(tile, overlap):
    with pytest.raises(ValueError, match="multiple of 32"):
        predict(Constant(), picture(10, 10), tile=tile, overlap=overlap)
