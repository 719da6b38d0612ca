"""A new FAST pipeline: the shipped autoencoder, everything else with fresh weights."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch

from fastsynth.diffusion.base import build_scheduler, build_unet, load_autoencoder
from fastsynth.diffusion.conditioning import DefectTokens
from fastsynth.diffusion.farm import FARM
from fastsynth.diffusion.pipeline import FASTPipeline


def new_pipeline(
    pairs: Sequence[tuple[str, str]],
    *,
    autoencoder: Path | None,
    size: int,
    block_out_channels: Sequence[int],
    layers_per_block: int,
    tokens_per_defect: int,
    token_width: int,
    kernel: Literal["exact", "published"],
    spacing: Literal["logsnr", "uniform"],
    solver_order: Literal[1, 2],
    seed: int,
) -> FASTPipeline:
    """A pipeline for the (category, defect) `pairs`. autoencoder: a saved one, or None for the shipped one.

    size: side of the model's square input, px. seed: of the initial weights; the global random state is put back.
    """
    vae = load_autoencoder(autoencoder)
    latent_channels = int(vae.config["latent_channels"])
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        unet = build_unet(
            latent_channels=latent_channels,
            size=size,
            block_out_channels=block_out_channels,
            layers_per_block=layers_per_block,
            token_width=token_width,
        )
        farm = FARM(in_channels=latent_channels, class_embed_dim=token_width)
        tokens = DefectTokens(
            pairs=[list(pair) for pair in pairs], num_tokens=tokens_per_defect, cross_attention_dim=token_width
        )
    scheduler = build_scheduler(kernel=kernel, spacing=spacing, solver_order=solver_order)
    return FASTPipeline(vae=vae, unet=unet, scheduler=scheduler, farm=farm, tokens=tokens)
