"""Parts shared by the layout renderers: norms that may listen to the layout, and pix2pixHD's convolution blocks.

Every norm is called as norm(x, planes). `planes` is the conditioning pyramid, finest first: entry i has 1/2^i of the
output's size. A norm knows its own level; the plain ones ignore the planes.

Sources: CRN (arXiv 1707.09405), pix2pixHD (arXiv 1711.11585), class-adaptive norm: CLADE (Tan et al. 2021, arXiv
2012.04644), styles per instance in the norm: INADE (Tan et al. 2021). B batch, C channels, P planes, h w map size.
"""

from collections.abc import Sequence
from typing import Literal, assert_never

import torch
from torch import Tensor, nn

from generators.bands import BandedConv2d, BandedConvTranspose2d
from generators.encoding import area_pyramid

NormKind = Literal["instance", "joint", "class_adaptive"]
Upsampling = Literal["resize", "transposed"]

JOINT_EPS = 1e-12


def joint_norm(channels: int, *, affine: bool = True) -> nn.GroupNorm:
    """CRN's norm: mean and biased variance over (C, h, w) of each sample together, gain and offset per channel."""
    return nn.GroupNorm(1, channels, eps=JOINT_EPS, affine=affine)


class PlainNorm(nn.Module):
    """A norm that does not listen to the layout: "joint" (CRN) or "instance" (pix2pixHD, without parameters)."""

    def __init__(self, kind: Literal["instance", "joint"], channels: int) -> None:
        super().__init__()
        self.norm = joint_norm(channels) if kind == "joint" else nn.InstanceNorm2d(channels)

    def forward(self, x: Tensor, planes: Sequence[Tensor]) -> Tensor:
        """x: (B, C, h, w). planes: not read."""
        return self.norm(x)


class ClassAdaptiveNorm(nn.Module):
    """norm(x) · (1 + γ) + β, where γ and β of a pixel are looked up by its class: two numbers per class and channel.

    On class shares (coarse levels) the numbers are mixed by share; where all planes are 0 it is the plain norm.
    Starts as the plain norm.
    """

    def __init__(self, base: Literal["instance", "joint"], channels: int, *, num_planes: int, level: int) -> None:
        super().__init__()
        self.norm = joint_norm(channels, affine=False) if base == "joint" else nn.InstanceNorm2d(channels)
        self.table = nn.Conv2d(num_planes, 2 * channels, 1, bias=False)
        self.level = level
        nn.init.zeros_(self.table.weight)

    def forward(self, x: Tensor, planes: Sequence[Tensor]) -> Tensor:
        """x: (B, C, h, w). planes: planes[level] is (B, P, h, w)."""
        gain, offset = self.table(planes[self.level]).chunk(2, dim=1)
        return torch.addcmul(offset, self.norm(x), 1 + gain)


def make_norm(
    kind: NormKind, channels: int, *, base: Literal["instance", "joint"], num_planes: int, level: int
) -> nn.Module:
    """base: what "class_adaptive" normalises with. level: halvings between the output and this map."""
    match kind:
        case "instance" | "joint":
            return PlainNorm(kind, channels)
        case "class_adaptive":
            return ClassAdaptiveNorm(base, channels, num_planes=num_planes, level=level)
        case _:
            assert_never(kind)


def norm_pyramid(layout: Tensor, *, num_classes: int, style_channels: int, levels: int) -> list[Tensor]:
    """What class-adaptive norms look up, finest first: class planes, and class planes times every style channel.

    So each class has its own linear map from an instance's style to gain and offset. Without style channels these
    are the class planes.

    layout: (B, C, H, W), the N class planes first and the D style planes last. Returns (B, N + N·D, H/2^i, W/2^i).
    """
    classes, styles = layout[:, :num_classes], layout[:, layout.shape[1] - style_channels :]
    products = (classes[:, :, None] * styles[:, None]).flatten(1, 2)
    return area_pyramid(torch.cat([classes, products], dim=1), levels=levels)


class ConvBlock(nn.Module):
    """Convolution → norm → ReLU; with kernel 7 the padding mirrors the image, as pix2pixHD does at full size."""

    def __init__(self, before: int, after: int, *, kernel_size: int, stride: int = 1, norm: nn.Module) -> None:
        super().__init__()
        mode: Literal["reflect", "zeros"] = "reflect" if stride == 1 else "zeros"
        self.conv = BandedConv2d(before, after, kernel_size, stride=stride, padding=kernel_size // 2, padding_mode=mode)
        self.norm = norm

    def forward(self, x: Tensor, planes: Sequence[Tensor]) -> Tensor:
        return self.norm(self.conv(x), planes).relu()


class UpBlock(nn.Module):
    """Twice the size: "transposed" convolution as published, or "resize": repeat pixels, then convolve."""

    def __init__(self, before: int, after: int, *, upsampling: Upsampling, norm: nn.Module) -> None:
        super().__init__()
        match upsampling:
            case "transposed":
                self.resize: nn.Module = nn.Identity()
                self.conv: nn.Module = BandedConvTranspose2d(before, after, 3, stride=2, padding=1, output_padding=1)
            case "resize":
                self.resize = nn.Upsample(scale_factor=2, mode="nearest")
                self.conv = BandedConv2d(before, after, 3, padding=1)
            case _:
                assert_never(upsampling)
        self.norm = norm

    def forward(self, x: Tensor, planes: Sequence[Tensor]) -> Tensor:
        return self.norm(self.conv(self.resize(x)), planes).relu()


class ResidualBlock(nn.Module):
    """x + norm(conv(ReLU(norm(conv(x))))), nothing after the sum."""

    def __init__(self, channels: int, *, norms: tuple[nn.Module, nn.Module]) -> None:
        super().__init__()
        self.conv1 = BandedConv2d(channels, channels, 3, padding=1, padding_mode="reflect")
        self.conv2 = BandedConv2d(channels, channels, 3, padding=1, padding_mode="reflect")
        self.norm1, self.norm2 = norms

    def forward(self, x: Tensor, planes: Sequence[Tensor]) -> Tensor:
        hidden = self.norm1(self.conv1(x), planes).relu()
        return x + self.norm2(self.conv2(hidden), planes)


class ImageHead(nn.Module):
    """7×7 convolution with mirrored border, then tanh."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.conv = BandedConv2d(before, after, 7, padding=3, padding_mode="reflect")

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x).tanh()


def init_normal(module: nn.Module, *, std: float = 0.02) -> None:
    """pix2pixHD's start: convolution weights from N(0, std²), biases as torch sets them; tables of norms stay."""
    for name, part in module.named_modules():
        if isinstance(part, nn.Conv2d | nn.ConvTranspose2d) and not name.endswith("table"):
            nn.init.normal_(part.weight, std=std)


def check_choice(name: str, value: object, choices: Sequence[str]) -> None:
    """Raises ValueError that lists the choices."""
    if value not in choices:
        raise ValueError(f"{name} is {value!r}; choose one of {', '.join(map(repr, choices))}")
