"""CRN: the cascaded refinement network (Chen & Koltun, ICCV 2017, arXiv 1707.09405). No adversary, no noise.

A chain of modules, each at twice the size of the one before. A module sees the features so far, enlarged, and the
layout at its own size; the last one is followed by a 1×1 convolution to k images at once.

B batch, C layout channels, k outputs, H W image size, n modules: the first works at H/2^(n-1) × W/2^(n-1).
"""

from collections.abc import Sequence
from typing import Literal, Self

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn
from torch.nn import functional as F

from generators.bands import BandedConv2d
from generators.blocks import check_choice, make_norm, norm_pyramid
from generators.encoding import area_pyramid, check_sides

SLOPE = 0.2
SMALLEST_BASE = 4
PUBLISHED_WIDTHS = (1024, 1024, 1024, 1024, 1024, 512, 512, 128, 32)


class CRN(ModelMixin, ConfigMixin):
    """Layout in, k images out; any base size and aspect.

    Args:
        num_classes: class planes of the layout.
        widths: channels of each module, coarsest first; n modules turn a base of h×w into 2^(n-1) times that.
        num_outputs: k, images per layout.
        out_channels: 3 for colour, 1 for grey.
        edges: the layout has an edge plane after the class planes.
        style_channels: style planes, the last of all.
        context_channels: planes between edges and styles, as `encoding.surroundings` gives them.
        norm: "joint" as published: statistics over (C, h, w) together; "class_adaptive": the same, gain and offset
            by class (and by style, where there are style channels).

    Raises ValueError for an unknown norm.
    """

    @register_to_config
    def __init__(
        self,
        num_classes: int,
        widths: Sequence[int] = (128, 128, 128, 96, 64, 48, 32),
        num_outputs: int = 3,
        out_channels: int = 3,
        edges: bool = False,
        style_channels: int = 0,
        norm: Literal["joint", "class_adaptive"] = "class_adaptive",
        context_channels: int = 0,
    ) -> None:
        super().__init__()
        check_choice("norm", norm, ("joint", "class_adaptive"))
        self.in_channels = num_classes + edges + context_channels + style_channels
        num_planes = num_classes * (1 + style_channels)
        self.stages = nn.ModuleList()
        before = 0
        for i, width in enumerate(widths):
            level = len(widths) - 1 - i
            norms = [make_norm(norm, width, base="joint", num_planes=num_planes, level=level) for _ in range(2)]
            self.stages.append(RefinementModule(before + self.in_channels, width, norms=(norms[0], norms[1])))
            before = width
        self.head = BandedConv2d(before, out_channels * num_outputs, 1)
        nn.init.xavier_uniform_(self.head.weight)
        nn.init.zeros_(self.head.get_parameter("bias"))

    @classmethod
    def published(cls, height: Literal[256, 512, 1024], *, num_classes: int = 20) -> Self:
        """The networks of the authors' code, for images twice as wide as high: 9 outputs at 256, else 1.

        97,875,483 / 98,622,851 / 98,674,531 parameters at 20 classes: Cityscapes' 19, and one of pixels without any.
        Label those as a class of their own; ignored ones are 0 in every plane.
        """
        modules = {256: 7, 512: 8, 1024: 9}[height]
        outputs = 9 if height == 256 else 1
        return cls(num_classes, widths=PUBLISHED_WIDTHS[:modules], num_outputs=outputs, norm="joint")

    def forward(self, layout: Tensor) -> Tensor:
        """(B, k, out_channels, H, W) in about [-1, 1], not clamped: there is no tanh, and losses see all of it.

        layout: (B, C, H, W) as `encoding.encode_layout` gives it; sides multiples of 2^(n-1), base at least 4×4.
        Raises ValueError for other sides or another number of channels.
        """
        levels = len(self.stages)
        if layout.shape[1] != self.in_channels:
            raise ValueError(f"layout has {layout.shape[1]} channels, this CRN takes {self.in_channels}; encode it so")
        check_sides(layout, multiple=2 ** (levels - 1), smallest=SMALLEST_BASE)
        layouts = area_pyramid(layout, levels=levels)
        planes = self._planes(layout, levels)
        features = None
        for stage, here in zip(self.stages, reversed(layouts), strict=True):
            if features is not None:
                size = here.shape[-2:]  # no name for the larger features: at full size they take as much as all weights
                here = torch.cat([F.interpolate(features, size=size, mode="bilinear", align_corners=True), here], dim=1)
            features = stage(here, planes)
        # channels are colour-major: all reds, all greens, all blues
        return self.head(features).unflatten(1, (self.config["out_channels"], -1)).transpose(1, 2)

    def grow(self, width: int, *, num_outputs: int | None = None) -> Self:
        """A new CRN for images of twice the size: the same modules with their weights, one more, and a fresh head.

        width: channels of the new module. num_outputs: k, as before by default.
        """
        config = {name: value for name, value in self.config.items() if not name.startswith("_")}
        config["widths"] = (*config["widths"], width)
        if num_outputs is not None:
            config["num_outputs"] = num_outputs
        larger = type(self)(**config)
        for new, old in zip(larger.stages, self.stages, strict=False):
            new.load_state_dict(old.state_dict())
        return larger

    def _planes(self, layout: Tensor, levels: int) -> list[Tensor]:
        if self.config["norm"] == "joint":
            return []
        return norm_pyramid(
            layout,
            num_classes=self.config["num_classes"],
            style_channels=self.config["style_channels"],
            levels=levels,
        )


class RefinementModule(nn.Module):
    """Twice: 3×3 convolution without bias → norm → LeakyReLU(0.2)."""

    def __init__(self, before: int, width: int, *, norms: tuple[nn.Module, nn.Module]) -> None:
        super().__init__()
        self.conv1 = BandedConv2d(before, width, 3, padding=1, bias=False)
        self.conv2 = BandedConv2d(width, width, 3, padding=1, bias=False)
        self.norm1, self.norm2 = norms
        nn.init.xavier_uniform_(self.conv1.weight)
        nn.init.xavier_uniform_(self.conv2.weight)

    def forward(self, x: Tensor, planes: Sequence[Tensor]) -> Tensor:
        hidden = F.leaky_relu(self.norm1(self.conv1(x), planes), SLOPE)
        return F.leaky_relu(self.norm2(self.conv2(hidden), planes), SLOPE)
