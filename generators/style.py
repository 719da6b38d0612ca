"""How one instance looks: an encoder that gives every instance a short vector, and a bank of vectors to draw from.

The encoder's output is replaced by its mean over each instance (pix2pixHD, arXiv 1711.11585, section 3.4), so a style
can say which look but not where what is. After training, the vectors of all training instances are clustered per
class; at render time an instance gets a centre of its class, another instance's vector, or plain noise.

B batch, D style channels, S instances (segments) of a batch, N classes, K centres per class, H W image size.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Self

import numpy as np
import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor, nn
from torch.nn import functional as F

from generators.blocks import ConvBlock, ImageHead, PlainNorm, UpBlock, Upsampling, check_choice, init_normal
from generators.encoding import check_sides
from generators.kmeans import kmeans


class Segments(NamedTuple):
    """The instances of a batch, each id of each image one segment.

    of_pixel: (B, H, W) int64, the segment of a pixel, 0 … S - 1. batch: (S,) int64, its image. ids: (S,) int64, its id
    there. areas: (S,) int64 pixels.
    """

    of_pixel: Tensor
    batch: Tensor
    ids: Tensor
    areas: Tensor


def find_segments(instances: Tensor) -> Segments:
    """instances: (B, H, W) of any integer type and any ids; the same id in two images is two instances.

    Raises ValueError when they are not integers of that shape.
    """
    if instances.ndim != 3 or instances.is_floating_point() or instances.dtype == torch.bool:
        raise ValueError(f"instances are {instances.dtype} {tuple(instances.shape)}; pass integer ids as (B, H, W)")
    known, numbers = instances.long().unique(return_inverse=True)
    image = torch.arange(len(instances), device=instances.device)[:, None, None]
    keys, index, areas = (image * len(known) + numbers).unique(return_inverse=True, return_counts=True)
    return Segments(index, keys // len(known), known[keys % len(known)], areas)


def segment_means(features: Tensor, segments: Segments) -> Tensor:
    """(S, D): the mean of (B, D, H, W) features over each segment, in their dtype; gradients flow to the features."""
    # sums of thousands of pixels leave half precision
    rows = features.movedim(1, -1).flatten(0, 2).float()
    sums = rows.new_zeros(len(segments.areas), rows.shape[1]).index_add(0, segments.of_pixel.flatten(), rows)
    return (sums / segments.areas[:, None]).to(features.dtype)


def pool_instances(features: Tensor, instances: Tensor) -> Tensor:
    """Each pixel's features replaced by their mean over its instance, (B, D, H, W).

    features: (B, D, H, W). instances: (B, H, W) integers. Raises ValueError as `find_segments` does.
    """
    segments = find_segments(instances)
    return segment_means(features, segments)[segments.of_pixel].movedim(-1, 1)


def paint_styles(instances: Tensor, styles: Mapping[int, Tensor]) -> Tensor:
    """The style planes of one layout, (D, H, W): each instance filled with its vector.

    instances: (H, W) integers. styles: a (D,) vector for every id in it. Raises ValueError for an id without one.
    """
    ids, index = instances.long().unique(return_inverse=True)
    missing = [number for number in ids.tolist() if number not in styles]
    if missing:
        raise ValueError(f"instances {missing[:5]} have no style; the styles given are for {sorted(styles)[:5]}")
    return torch.stack([styles[number] for number in ids.tolist()])[index].movedim(-1, 0)


def noise_style(style_channels: int, *, generator: torch.Generator) -> Tensor:
    """(style_channels,) from N(0, 1): a look without encoder or bank, where the norm listens to styles (INADE)."""
    return randn_tensor((style_channels,), generator=generator)


class StyleEncoder(ModelMixin, ConfigMixin):
    """An image to style planes: down, up, tanh, then the mean over each instance. 788,803 parameters as published.

    Args:
        style_channels: D.
        in_channels: 3 for colour, 1 for grey.
        width: channels at full size.
        num_downsamples: halvings.
        upsampling: "transposed" as published, or "resize".

    Raises ValueError for an unknown upsampling.
    """

    @register_to_config
    def __init__(
        self,
        style_channels: int = 3,
        in_channels: int = 3,
        width: int = 16,
        num_downsamples: int = 4,
        upsampling: Upsampling = "transposed",
    ) -> None:
        super().__init__()
        check_choice("upsampling", upsampling, ("resize", "transposed"))
        widths = [width * 2**i for i in range(num_downsamples + 1)]
        self.first = ConvBlock(in_channels, width, kernel_size=7, norm=PlainNorm("instance", width))
        self.down = nn.ModuleList(
            ConvBlock(widths[i], widths[i + 1], kernel_size=3, stride=2, norm=PlainNorm("instance", widths[i + 1]))
            for i in range(num_downsamples)
        )
        self.up = nn.ModuleList(
            UpBlock(widths[i + 1], widths[i], upsampling=upsampling, norm=PlainNorm("instance", widths[i]))
            for i in reversed(range(num_downsamples))
        )
        self.head = ImageHead(width, style_channels)
        init_normal(self)

    def forward(self, image: Tensor, instances: Tensor) -> Tensor:
        """(B, D, H, W) in [-1, 1], constant on each instance.

        image: (B, in_channels, H, W) in [-1, 1], sides multiples of 2^num_downsamples. instances: (B, H, W) integers.
        Raises ValueError for other sides, or instances that are not integers of that shape.
        """
        return pool_instances(self.features(image), instances)

    def features(self, image: Tensor) -> Tensor:
        """(B, D, H, W) in [-1, 1], before the mean."""
        check_sides(image, multiple=2 ** self.config["num_downsamples"], smallest=2)
        x = image
        for block in (self.first, *self.down, *self.up):
            x = block(x, ())
        return self.head(x)


def encode_styles(encoder: StyleEncoder, image: Tensor, instances: Tensor, *, shrink: int) -> Tensor:
    """The encoder's vector of every instance, painted over it: (B, D, H, W).

    The encoder sees the picture at 1/shrink of its size; instances are averaged at full size, so none gets lost.
    """
    if shrink == 1:
        return encoder(image, instances)
    features = encoder.features(F.avg_pool2d(image, shrink))
    return pool_instances(F.interpolate(features, scale_factor=shrink, mode="nearest"), instances)


class StyleBank(ModelMixin, ConfigMixin):
    """K-means centres of the styles of each class, with the fingerprint of the encoder they came from.

    Args:
        num_classes: N.
        style_channels: D.
        num_centres: K, at most so many per class.
        encoder_sha256: `weights_sha256` of the encoder.

    centres: (N, K, D), counts: (N,) how many of them a class has, average: (D,) the mean of all vectors, which a
    class without any falls back to.
    """

    @register_to_config
    def __init__(
        self, num_classes: int, style_channels: int = 3, num_centres: int = 10, encoder_sha256: str = ""
    ) -> None:
        super().__init__()
        self.centres = _constant(torch.zeros(num_classes, num_centres, style_channels))
        self.counts = _constant(torch.zeros(num_classes))
        self.average = _constant(torch.zeros(style_channels))

    @classmethod
    def fit(
        cls,
        vectors: np.ndarray,
        classes: Sequence[int] | np.ndarray,
        *,
        num_classes: int,
        rng: np.random.Generator,
        num_centres: int = 10,
        encoder: nn.Module | None = None,
    ) -> Self:
        """Cluster the styles of training instances, each instance as one vector whatever its area.

        vectors: (S, D) float. classes: (S,) ids in 0 … num_classes - 1.
        encoder: what made them; `check_encoder` will accept only its weights.
        Raises ValueError when there is no vector, or a class id is out of range.
        """
        classes = np.asarray(classes)
        if len(vectors) == 0 or len(vectors) != len(classes):
            raise ValueError(f"{len(vectors)} styles for {len(classes)} instances; pass one each, of at least one")
        if classes.min() < 0 or classes.max() >= num_classes:
            raise ValueError(f"class ids from {classes.min()} to {classes.max()}, the bank has 0 to {num_classes - 1}")
        fingerprint = "" if encoder is None else weights_sha256(encoder)
        bank = cls(num_classes, vectors.shape[1], num_centres, encoder_sha256=fingerprint)
        bank.average.copy_(torch.from_numpy(vectors.mean(axis=0)))
        for number in np.unique(classes):
            centres = kmeans(vectors[classes == number], num_centres, rng=rng)
            bank.centres[number, : len(centres)] = torch.from_numpy(centres)
            bank.counts[number] = len(centres)
        return bank

    def of_class(self, number: int) -> Tensor:
        """The centres of a class, (≤ K, D); for a class that had no instances the one average style, (1, D).

        Raises ValueError for a class the bank does not have.
        """
        if not 0 <= number < len(self.counts):
            raise ValueError(f"class {number}; the style bank has 0 to {len(self.counts) - 1}")
        count = int(self.counts[number])
        return self.centres[number, :count] if count else self.average[None]

    def centre(self, number: int, centre: int) -> Tensor:
        """One of `of_class`, counted from 0, (D,). Raises ValueError for a class or centre the bank does not have."""
        centres = self.of_class(number)
        if not 0 <= centre < len(centres):
            raise ValueError(f"centre {centre} of class {number}; the style bank has 0 to {len(centres) - 1} of it")
        return centres[centre]

    def draw(self, number: int, *, generator: torch.Generator) -> Tensor:
        """A random centre of class `number`, (D,). One generator per instance keeps the others' looks when one changes.

        Raises ValueError for a class the bank does not have.
        """
        centres = self.of_class(number)
        return centres[int(torch.randint(len(centres), (), generator=generator))]

    def check_encoder(self, encoder: nn.Module) -> None:
        """Raises ValueError unless the bank was made with these very weights: other encoders speak other styles."""
        wanted, found = self.config["encoder_sha256"], weights_sha256(encoder)
        if wanted != found:
            raise ValueError(
                f"the style bank was made with encoder {wanted[:12] or '(unknown)'}, this one is {found[:12]}; "
                "build the bank again with this encoder"
            )


def weights_sha256(module: nn.Module) -> str:
    """Fingerprint of all names and values in the state of a module."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _constant(values: Tensor) -> nn.Parameter:
    """Parameters, since diffusers asks a model's parameters for its dtype; nothing trains them."""
    return nn.Parameter(values, requires_grad=False)
