"""Convolutions of large maps in bands of rows, where no gradient is wanted: the same result in less memory.

A convolution needs copies of its input beside it, padded and in the order its kernel likes; of a map of 2048×1024
pixels with 148 channels each takes 1.2 GB. A row of the output depends on few rows of the input, so the copies may be
of one band at a time. Norms look at the whole map, and between the convolutions it is whole: nothing is approximated.

B batch, C channels, h w input size, H W output size.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LARGEST = 2**25
"""Values of input or output, whichever has more, from which on a map is convolved in bands of about a quarter as many.
A crop of a run is far below: the bytes of samples do not depend on it."""


class BandedConv2d(nn.Conv2d):
    """`nn.Conv2d` with a square kernel, equal padding on all sides and no dilation."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) → (B, C', H, W)."""
        height = (x.shape[2] + 2 * int(self.padding[0]) - self.kernel_size[0]) // self.stride[0] + 1
        rows = band_rows(x, self, height)
        return super().forward(x) if rows >= height else joined(self._bands(x, height, rows), height)

    def _bands(self, x: Tensor, height: int, rows: int) -> Iterator[Tensor]:
        kernel, stride, pad = self.kernel_size[0], self.stride[0], int(self.padding[0])
        mode = "constant" if self.padding_mode == "zeros" else self.padding_mode
        for start in range(0, height, rows):
            above, below = start * stride - pad, (min(start + rows, height) - 1) * stride - pad + kernel
            band = x[:, :, max(above, 0) : min(below, x.shape[2])]
            band = F.pad(band, (pad, pad, max(-above, 0), max(below - x.shape[2], 0)), mode=mode)
            yield F.conv2d(band, self.weight, self.bias, stride=stride)


class BandedConvTranspose2d(nn.ConvTranspose2d):
    """`nn.ConvTranspose2d` of kernel 3, stride 2, padding 1 and output padding 1: twice the size."""

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        """(B, C, h, w) → (B, C', 2h, 2w). output_size: not read."""
        height = x.shape[2]
        rows = band_rows(x, self, 2 * height) // 2
        return super().forward(x) if rows >= height else joined(self._bands(x, rows), 2 * height)

    def _bands(self, x: Tensor, rows: int) -> Iterator[Tensor]:
        for start in range(0, x.shape[2], rows):
            stop = min(start + rows, x.shape[2])
            # row 2i of the output comes from row i, row 2i + 1 from rows i and i + 1
            band = super().forward(x[:, :, start : stop + 1])
            yield band[:, :, : 2 * (stop - start)]


def band_rows(x: Tensor, conv: nn.Conv2d | nn.ConvTranspose2d, height: int) -> int:
    """Rows of the output to compute at once, an even number of at least 8; `height` or more for all of them."""
    per_pixel = max(conv.in_channels, conv.out_channels)
    values = x.shape[0] * per_pixel * max(x.shape[2] * x.shape[3], height * height * x.shape[3] // x.shape[2])
    if torch.is_grad_enabled() or values < LARGEST:
        return height
    return max(8, 2 * (height * LARGEST // (8 * values)))


def joined(bands: Iterator[Tensor], height: int) -> Tensor:
    """Bands of rows as one map, each copied to its place as soon as it is there."""
    first = next(bands)
    whole = first.new_empty((*first.shape[:2], height, first.shape[3]))
    whole[:, :, : first.shape[2]] = first
    row = first.shape[2]
    del first
    for band in bands:
        whole[:, :, row : row + band.shape[2]] = band
        row += band.shape[2]
    return whole
