"""Hashes of tensors and weights: what a cache on disk is named after, and what tells a damaged file."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from fastsynth.files import sha256_bytes, sha256_file


def tensor_bytes(value: Tensor) -> bytes:
    """Shape, number format and values, for a hash."""
    plain = value.detach().cpu().contiguous()
    return f"{tuple(plain.shape)} {plain.dtype} ".encode() + plain.view(-1).view(torch.uint8).numpy().tobytes()


def weights_sha256(module: nn.Module) -> str:
    """Hash of a module's weights as they are, number format included."""
    lines = [f"{name} {sha256_bytes(tensor_bytes(value))}" for name, value in module.state_dict().items()]
    return sha256_bytes("\n".join(lines).encode())


def file_hashes(folder: Path) -> dict[str, str]:
    """Path below `folder` → hash, of every weight file."""
    return {path.relative_to(folder).as_posix(): sha256_file(path) for path in sorted(folder.rglob("*.safetensors"))}


def check_files(folder: Path, hashes: Mapping[str, str]) -> None:
    """Raises FileNotFoundError for the first file that is missing, ValueError for the first with another hash."""
    for name, wanted in hashes.items():
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder / name}: these weights are missing; install or copy them again")
        if sha256_file(folder / name) != wanted:
            raise ValueError(f"{folder / name} is damaged, its hash is not the recorded one; install or copy it again")
