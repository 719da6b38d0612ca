"""A new FAST pipeline: the shipped autoencoder, and either a pretrained base or fresh weights."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch

from fastsynth.diffusion.autoencoder import DOWNSAMPLING
from fastsynth.diffusion.base import build_scheduler, build_unet, load_autoencoder
from fastsynth.diffusion.bundle import BUNDLED_BASE, Base, adapted_tokens, load_base
from fastsynth.diffusion.conditioning import DefectTokens
from fastsynth.diffusion.config import UNetConfig
from fastsynth.diffusion.farm import FARM
from fastsynth.diffusion.pipeline import FASTPipeline


def new_pipeline(
    pairs: Sequence[tuple[str, str]],
    *,
    autoencoder: Path | None,
    pretrained: Literal["bundled"] | Path | None,
    fresh: UNetConfig,
    size: int,
    kernel: Literal["exact", "published"],
    spacing: Literal["logsnr", "uniform"],
    solver_order: Literal[1, 2],
    seed: int,
) -> FASTPipeline:
    """A pipeline for the (category, defect) `pairs`.

    autoencoder: a saved one, or None for the shipped one. pretrained: the shipped base, the folder of another, or
    None for the `fresh` one. size: side of the model's square input, px. seed: of fresh weights and of what tells new
    tokens apart; the global random state is put back.

    Raises FileNotFoundError or ValueError for a base or autoencoder that is missing, damaged or not each other's.
    """
    vae = load_autoencoder(autoencoder)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if pretrained is None:
            parts = _fresh(pairs, fresh, latent_channels=int(vae.config["latent_channels"]), size=size)
        else:
            base = load_base(BUNDLED_BASE if pretrained == "bundled" else pretrained, autoencoder=vae)
            base.unet.register_to_config(sample_size=size // DOWNSAMPLING)
            parts = base._replace(tokens=adapted_tokens(base.tokens, list(pairs), seed=seed))
    scheduler = build_scheduler(kernel=kernel, spacing=spacing, solver_order=solver_order)
    return FASTPipeline(vae=vae, scheduler=scheduler, **parts._asdict())


def _fresh(pairs: Sequence[tuple[str, str]], config: UNetConfig, *, latent_channels: int, size: int) -> Base:
    unet = build_unet(
        latent_channels=latent_channels,
        size=size,
        block_out_channels=config.block_out_channels,
        layers_per_block=config.layers_per_block,
        token_width=config.token_width,
    )
    farm = FARM(in_channels=latent_channels, class_embed_dim=config.token_width)
    tokens = DefectTokens(
        pairs=[list(pair) for pair in pairs],
        num_tokens=config.tokens_per_defect,
        cross_attention_dim=config.token_width,
    )
    return Base(unet, farm, tokens)
