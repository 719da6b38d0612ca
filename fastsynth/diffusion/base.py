"""The compact latent diffusion model: what FAST stands on where no large pretrained model is wanted.

The autoencoder ships with the package. The UNet is small, predicts v, and sees besides the noisy latent what it has
to fit into: the background latent around the mask, and the mask itself at full resolution, packed into the channels
of the latent grid, so that a mask thinner than a cell is still exact.
B batch, C latent channels, H W picture size, h = H/8, w = W/8.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor
from torch.nn import functional

from fastsynth.diffusion.aias import AIASScheduler
from fastsynth.diffusion.autoencoder import DOWNSAMPLING, CompactAutoencoder
from fastsynth.diffusion.hashing import check_files, file_hashes
from fastsynth.files import read_json, write_json

BUNDLED_AUTOENCODER = Path(__file__).parent.parent / "weights" / "autoencoder"
HASHES = "sha256.json"
MASK_CHANNELS = DOWNSAMPLING**2


def save_autoencoder(autoencoder: CompactAutoencoder, folder: Path) -> None:
    """In half precision, in place, with the hash of its weights beside it."""
    autoencoder.half().save_pretrained(folder)
    write_json(folder / HASHES, file_hashes(folder))


def load_autoencoder(folder: Path | None) -> CompactAutoencoder:
    """The autoencoder saved in `folder`, or the one that ships; frozen, float32, ready to use.

    Raises FileNotFoundError if there is none, ValueError if it is another kind of model or `save_autoencoder` recorded
    another hash of its weights.
    """
    folder = BUNDLED_AUTOENCODER if folder is None else folder
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"{folder}: no saved autoencoder (config.json is missing); check base.autoencoder")
    kind = read_json(folder / "config.json").get("_class_name")
    if kind != CompactAutoencoder.__name__:
        raise ValueError(f"{folder} holds a {kind}, wanted a {CompactAutoencoder.__name__}; check base.autoencoder")
    if (folder / HASHES).is_file():
        check_files(folder, read_json(folder / HASHES))
    autoencoder = CompactAutoencoder.from_pretrained(folder, dtype=torch.float32)
    return autoencoder.eval().requires_grad_(False)


def build_unet(
    *, latent_channels: int, size: int, block_out_channels: Sequence[int], layers_per_block: int, token_width: int
) -> UNet2DConditionModel:
    """A fresh UNet for `size`×`size` pictures: (noisy latent, background latent, packed mask) → v."""
    levels = ["DownBlock2D"] + ["CrossAttnDownBlock2D"] * (len(block_out_channels) - 1)
    return UNet2DConditionModel(
        sample_size=size // DOWNSAMPLING,
        in_channels=2 * latent_channels + MASK_CHANNELS,
        out_channels=latent_channels,
        block_out_channels=tuple(block_out_channels),
        layers_per_block=layers_per_block,
        down_block_types=tuple(levels),
        up_block_types=tuple(level.replace("Down", "Up") for level in reversed(levels)),
        mid_block_type="UNetMidBlock2DCrossAttn",
        cross_attention_dim=token_width,
        attention_head_dim=8,
        norm_num_groups=min(32, block_out_channels[0] // 2),
    )


def build_scheduler(*, kernel: str, spacing: str, solver_order: int) -> AIASScheduler:
    """AIAS on the noise schedule of latent diffusion, predicting v."""
    return AIASScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        kernel=kernel,
        spacing=spacing,
        solver_order=solver_order,
    )


def latent_mask(mask_image: Tensor, *, cell: int = DOWNSAMPLING) -> Tensor:
    """(B, 1, H, W) of 0 and 1 to (B, 1, h, w): 1 where any pixel of the cell is inside, so that thin masks survive.

    cell: pixels along one side of a latent cell.
    """
    return functional.max_pool2d(mask_image, cell)


def hidden(pictures: Tensor, mask_image: Tensor) -> Tensor:
    """The pictures with the mask filled by the mean of what is around it: what the encoder may see of a background.

    A latent cell holds what its neighbours show. Latents around the mask of a whole training picture tell what the
    defect looks like; those of a normal picture tell the same UNet that nothing is there, and it mends the surface.
    pictures: (B, 3, H, W); mask_image: (B, 1, H, W) of 0 and 1.
    """
    outside = 1 - mask_image
    mean = (pictures * outside).sum((2, 3), keepdim=True) / outside.sum((2, 3), keepdim=True).clamp(min=1)
    return pictures * outside + mean * mask_image


def unet_input(noisy: Tensor, background: Tensor, mask_image: Tensor) -> Tensor:
    """Channels of the UNet: noisy latent, background latent outside the mask, mask packed 8×8 into channels.

    noisy, background: (B, C, h, w). mask_image: (B, 1, H, W). Returns (B, 2C + 64, h, w).
    """
    around = background * (1 - latent_mask(mask_image))
    packed = functional.pixel_unshuffle(mask_image, DOWNSAMPLING)
    return torch.cat([noisy, around, packed], dim=1)


def farm_input(noisy: Tensor, reconstruction: Tensor, mask: Tensor, alpha_bar: Tensor, noise: Tensor) -> Tensor:
    """FARM's guess, noised to the level of `noisy`, in place of its masked part (FAST, eq. 11 and 12).

    noisy, reconstruction, noise: (B, C, h, w); mask: (B, 1, h, w); alpha_bar: ᾱ_t, broadcast over them.
    """
    renoised = alpha_bar.sqrt() * reconstruction + (1 - alpha_bar).sqrt() * noise  # eq. 11
    return (1 - mask) * noisy + mask * renoised  # eq. 12
