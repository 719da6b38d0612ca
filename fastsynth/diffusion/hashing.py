"""Hashes of tensors and weights: what a cache on disk is named after."""

import torch
from torch import Tensor, nn

from fastsynth.files import sha256_bytes


def tensor_bytes(value: Tensor) -> bytes:
    """Shape, number format and values, for a hash."""
    plain = value.detach().cpu().contiguous()
    return f"{tuple(plain.shape)} {plain.dtype} ".encode() + plain.view(-1).view(torch.uint8).numpy().tobytes()


def weights_sha256(module: nn.Module) -> str:
    """Hash of a module's weights as they are, number format included."""
    lines = [f"{name} {sha256_bytes(tensor_bytes(value))}" for name, value in module.state_dict().items()]
    return sha256_bytes("\n".join(lines).encode())
