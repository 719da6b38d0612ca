"""Frozen networks that say how alike two pictures look, layer by layer, behind one function.

"offline" is ImageNet EfficientNet-Lite0 from the extra of that name; "vgg19" torchvision's VGG-19, fetched from its
hub; "random" VGG-19 an eighth as wide with random orthogonal weights, for tests and mechanism runs without weights.
Their scales differ: calibrate the weights of the layers (`losses.LayerWeights`).

B batch, H W picture size, C_l h_l w_l channels and size of layer l.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Literal, assert_never

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastsynth.offline import offline_trunk

TrunkKind = Literal["offline", "vgg19", "random"]
Recipe = Literal["crn", "pix2pixhd"]
PIX2PIXHD_WEIGHTS = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1.0)
"""Published weights of the five VGG-19 layers."""

VGG19_CONVOLUTIONS = (2, 2, 4, 4, 4)
VGG19_WIDTHS = (64, 128, 256, 512, 512)
TRUNK_LAYERS = 5
"""Maps that every network gives."""
OFFLINE_SCALES = (0, 1, 2, 3, 4)
# ImageNet's, for pictures in [0, 1]
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


class PerceptualTrunk(nn.Module):
    """Frozen. with_image: the picture itself comes first, as layer 0."""

    def __init__(self, network: nn.Module, *, with_image: bool) -> None:
        super().__init__()
        self.network = network.eval().requires_grad_(False)
        self.with_image = with_image

    @property
    def num_layers(self) -> int:
        """L."""
        return TRUNK_LAYERS + self.with_image

    def forward(self, image: Tensor) -> list[Tensor]:
        """L maps (…, C_l, h_l, w_l), finest first; gradients flow to `image`.

        image: (…, 3 or 1, H, W) in [-1, 1]: (B, 3, H, W), or (B, k, 3, H, W) as CRN returns it. Grey is shown as RGB.
        """
        flat = image.flatten(0, -4)
        maps = self.network(flat.expand(-1, 3, -1, -1))
        if self.with_image:
            maps = [flat, *maps]
        return [layer.unflatten(0, image.shape[:-3]) for layer in maps]


def build_trunk(kind: TrunkKind, *, recipe: Recipe, seed: int = 0) -> PerceptualTrunk:
    """A trunk with the layers a publication reads.

    Args:
        kind: see above.
        recipe: "crn": the picture, then conv1_2 … conv5_2 with average pooling; "pix2pixhd": conv1_1 … conv5_1 with
            maximum pooling. "offline" reads all its five scales in both.
        seed: of "random".

    Raises ImportError when the extra `offline` is missing, ConnectionError when the hub cannot be reached.
    """
    match kind:
        case "offline":
            network = offline_trunk(out_indices=OFFLINE_SCALES)
        case "vgg19":
            network = torchvision_vgg19(_hub_weights(), recipe=recipe)
        case "random":
            network = _vgg(recipe, widths=[width // 8 for width in VGG19_WIDTHS])
            _init_orthogonal(network, seed=seed)
        case _:
            assert_never(kind)
    return PerceptualTrunk(network, with_image=recipe == "crn")


class VGGTrunk(nn.Module):
    """VGG-19 up to the last layer read: five stages of 3×3 convolutions with ReLU, halved in between.

    tap: which convolution of each stage is read, after its ReLU.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, *, widths: Sequence[int], tap: int, pooling: Literal["average", "maximum"]) -> None:
        super().__init__()
        self.tap = tap
        self.pool = F.avg_pool2d if pooling == "average" else F.max_pool2d
        self.counts = (*VGG19_CONVOLUTIONS[:-1], tap)
        self.convolutions = nn.ModuleList()
        before = 3
        for count, width in zip(self.counts, widths, strict=True):
            inputs = [before, *[width] * (count - 1)]
            self.convolutions.extend(nn.Conv2d(channels, width, 3, padding=1) for channels in inputs)
            before = width
        self.register_buffer("mean", torch.tensor(MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD).view(3, 1, 1), persistent=False)

    def forward(self, image: Tensor) -> list[Tensor]:
        """image: (B, 3, H, W) in [-1, 1], sides at least 16. Returns five maps at 1, 1/2, 1/4, 1/8, 1/16."""
        x = ((image + 1) / 2 - self.mean) / self.std
        maps = []
        convolutions = iter(self.convolutions)
        for i, count in enumerate(self.counts):
            x = self.pool(x, 2) if i else x
            for number in range(1, count + 1):
                x = next(convolutions)(x).relu()
                if number == self.tap:
                    maps.append(x)
        return maps


def torchvision_vgg19(state_dict: Mapping[str, Tensor], *, recipe: Recipe) -> VGGTrunk:
    """The trunk with the weights of torchvision's `vgg19`, whose convolutions come in the same order."""
    network = _vgg(recipe, widths=VGG19_WIDTHS)
    names = sorted((name for name in state_dict if re.match(r"features\.\d+\.weight", name)), key=_position)
    # the trunk ends before the network does
    for convolution, name in zip(network.convolutions, names, strict=False):
        convolution.load_state_dict({"weight": state_dict[name], "bias": state_dict[name.replace("weight", "bias")]})
    return network


def _position(name: str) -> int:
    return int(name.split(".")[1])


def _vgg(recipe: Recipe, *, widths: Sequence[int]) -> VGGTrunk:
    match recipe:
        case "crn":
            return VGGTrunk(widths=widths, tap=2, pooling="average")
        case "pix2pixhd":
            return VGGTrunk(widths=widths, tap=1, pooling="maximum")
        case _:
            assert_never(recipe)


def _hub_weights() -> Mapping[str, Tensor]:
    from torchvision.models import VGG19_Weights

    try:
        return VGG19_Weights.IMAGENET1K_V1.get_state_dict(progress=False, check_hash=True)
    except (OSError, RuntimeError) as error:  # RuntimeError: what came has another hash
        raise ConnectionError(f"VGG-19 could not be fetched ({error}); use the trunk 'offline'") from error


def _init_orthogonal(network: VGGTrunk, *, seed: int) -> None:
    """Orthogonal with gain √2, so that activations keep their size through the ReLUs; biases 0."""
    generator = torch.Generator().manual_seed(seed)
    for part in network.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.orthogonal_(part.weight, gain=2**0.5, generator=generator)
            nn.init.zeros_(part.get_parameter("bias"))
