"""pix2pixHD's generator (Wang et al., CVPR 2018, arXiv 1711.11585): a global network, and local enhancers around it.

The global generator goes down to 1/2^d of its input, through residual blocks, and up again. A local enhancer works at
twice the size: it halves its input, adds the coarser network's last features, and enlarges the sum. Widths are counted
from the global generator, so adding an enhancer never changes the networks inside.

B batch, N classes, H W output size, e enhancers, d halvings of the global generator.
"""

from collections.abc import Callable, Sequence
from typing import Self

from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from generators.blocks import (
    ConvBlock,
    ImageHead,
    NormKind,
    ResidualBlock,
    UpBlock,
    Upsampling,
    check_choice,
    init_normal,
    make_norm,
    norm_pyramid,
)
from generators.encoding import check_sides, input_pyramid

SMALLEST_BOTTLENECK = 2
MakeNorm = Callable[[int, int], nn.Module]
"""(channels, level) → norm."""


class Pix2PixHDGenerator(ModelMixin, ConfigMixin):
    """Layout in, one image out.

    Args:
        num_classes: class planes of the input; for image-to-image the channels of the input image.
        edges: an instance edge plane after the class planes.
        style_channels: style planes, the last of all.
        context_channels: planes between edges and styles, as `encoding.surroundings` gives them.
        out_channels: 3 for colour, 1 for grey.
        width: channels of the global generator at its full size; enhancer i = 1, 2, … has width / 2^i.
        num_downsamples: d.
        num_blocks: residual blocks of the global generator.
        num_enhancers: e; 0 is the global generator alone.
        num_enhancer_blocks: residual blocks of each enhancer.
        norm: "instance" as published; "class_adaptive": gain and offset by class (and style) after it.
        upsampling: "transposed" as published; "resize": repeat, then convolve.

    Raises ValueError for an unknown choice, or a width that cannot be halved e times.
    """

    @register_to_config
    def __init__(
        self,
        num_classes: int,
        edges: bool = True,
        style_channels: int = 0,
        out_channels: int = 3,
        width: int = 24,
        num_downsamples: int = 3,
        num_blocks: int = 4,
        num_enhancers: int = 0,
        num_enhancer_blocks: int = 3,
        norm: NormKind = "class_adaptive",
        upsampling: Upsampling = "resize",
        context_channels: int = 0,
    ) -> None:
        super().__init__()
        check_choice("norm", norm, ("instance", "class_adaptive"))
        check_choice("upsampling", upsampling, ("resize", "transposed"))
        if width % 2**num_enhancers:
            raise ValueError(f"width is {width}; {num_enhancers} enhancers need a multiple of {2**num_enhancers}")
        self.in_channels = num_classes + edges + context_channels + style_channels

        def make(channels: int, level: int) -> nn.Module:
            num_planes = num_classes * (1 + style_channels)
            return make_norm(norm, channels, base="instance", num_planes=num_planes, level=level)

        self.global_generator = GlobalGenerator(
            self.in_channels,
            width,
            num_downsamples=num_downsamples,
            num_blocks=num_blocks,
            upsampling=upsampling,
            level=num_enhancers,
            make=make,
        )
        self.enhancers = nn.ModuleList(
            LocalEnhancer(
                self.in_channels,
                width // 2**i,
                num_blocks=num_enhancer_blocks,
                upsampling=upsampling,
                level=num_enhancers - i,
                make=make,
            )
            for i in range(1, num_enhancers + 1)
        )
        self.head = ImageHead(width // 2**num_enhancers, out_channels)
        init_normal(self)

    @classmethod
    def published(
        cls, *, num_classes: int = 35, edges: bool = True, style_channels: int = 0, num_enhancers: int = 0
    ) -> Self:
        """The networks of the authors' code: 182,546,755 parameters, with one enhancer 182,857,059."""
        return cls(
            num_classes,
            edges=edges,
            style_channels=style_channels,
            width=64,
            num_downsamples=4,
            num_blocks=9,
            num_enhancers=num_enhancers,
            norm="instance",
            upsampling="transposed",
        )

    def forward(self, layout: Tensor) -> Tensor:
        """(B, out_channels, H, W) in [-1, 1].

        layout: (B, C, H, W) as `encoding.encode_layout` gives it, sides multiples of 2^(d + e).
        Raises ValueError for other sides or another number of channels.
        """
        config = self.config
        if layout.shape[1] != self.in_channels:
            raise ValueError(f"layout has {layout.shape[1]} channels, this net takes {self.in_channels}; encode it so")
        halvings = config["num_downsamples"] + config["num_enhancers"]
        check_sides(layout, multiple=2**halvings, smallest=SMALLEST_BOTTLENECK)
        planes: list[Tensor] = []
        if config["norm"] == "class_adaptive":
            planes = norm_pyramid(
                layout,
                num_classes=config["num_classes"],
                style_channels=config["style_channels"],
                levels=halvings + 1,
            )
        *finer, coarsest = input_pyramid(layout, levels=config["num_enhancers"] + 1)
        features = self.global_generator(coarsest, planes)
        for enhancer, here in zip(self.enhancers, reversed(finer), strict=True):
            features = enhancer(here, features, planes)
        return self.head(features)

    def grow(self) -> Self:
        """A new generator for images of twice the size: the same networks with their weights, one more enhancer
        around them, and a fresh head."""
        config = {name: value for name, value in self.config.items() if not name.startswith("_")}
        config["num_enhancers"] += 1
        larger = type(self)(**config)
        larger.global_generator.load_state_dict(self.global_generator.state_dict())
        for new, old in zip(larger.enhancers, self.enhancers, strict=False):
            new.load_state_dict(old.state_dict())
        return larger


class GlobalGenerator(nn.Module):
    """Input to features of `width` channels at the same size; the head is not part of it.

    level: halvings between the whole generator's output and this network's input. make: see MakeNorm.
    """

    def __init__(
        self,
        in_channels: int,
        width: int,
        *,
        num_downsamples: int,
        num_blocks: int,
        upsampling: Upsampling,
        level: int,
        make: MakeNorm,
    ) -> None:
        super().__init__()
        widths = [width * 2**i for i in range(num_downsamples + 1)]
        self.first = ConvBlock(in_channels, width, kernel_size=7, norm=make(width, level))
        self.down = nn.ModuleList(
            ConvBlock(widths[i], widths[i + 1], kernel_size=3, stride=2, norm=make(widths[i + 1], level + i + 1))
            for i in range(num_downsamples)
        )
        self.blocks = residual_blocks(widths[-1], num_blocks, level=level + num_downsamples, make=make)
        self.up = nn.ModuleList(
            UpBlock(widths[i + 1], widths[i], upsampling=upsampling, norm=make(widths[i], level + i))
            for i in reversed(range(num_downsamples))
        )

    def forward(self, x: Tensor, planes: Sequence[Tensor]) -> Tensor:
        for block in (self.first, *self.down, *self.blocks, *self.up):
            x = block(x, planes)
        return x


class LocalEnhancer(nn.Module):
    """Input at twice the size, and the coarser network's features, to features of `width` channels."""

    def __init__(
        self, in_channels: int, width: int, *, num_blocks: int, upsampling: Upsampling, level: int, make: MakeNorm
    ) -> None:
        super().__init__()
        self.first = ConvBlock(in_channels, width, kernel_size=7, norm=make(width, level))
        self.down = ConvBlock(width, 2 * width, kernel_size=3, stride=2, norm=make(2 * width, level + 1))
        self.blocks = residual_blocks(2 * width, num_blocks, level=level + 1, make=make)
        self.up = UpBlock(2 * width, width, upsampling=upsampling, norm=make(width, level))

    def forward(self, x: Tensor, features: Tensor, planes: Sequence[Tensor]) -> Tensor:
        """x: (B, C, h, w). features: (B, 2·width, h/2, w/2)."""
        x = self.down(self.first(x, planes), planes) + features
        for block in (*self.blocks, self.up):
            x = block(x, planes)
        return x


def residual_blocks(channels: int, count: int, *, level: int, make: MakeNorm) -> nn.ModuleList:
    """`count` residual blocks at one level."""
    return nn.ModuleList(
        ResidualBlock(channels, norms=(make(channels, level), make(channels, level))) for _ in range(count)
    )
