"""Tiny real components: a pipeline of 32 px squares that runs in milliseconds, the same weights every time."""

from collections.abc import Callable

import pytest
import torch

from fastsynth.diffusion.autoencoder import CompactAutoencoder
from fastsynth.diffusion.base import build_scheduler, build_unet
from fastsynth.diffusion.conditioning import DefectTokens
from fastsynth.diffusion.farm import FARM
from fastsynth.diffusion.pipeline import FASTPipeline

PAIRS = [["tile", "crack"], ["tile", "dent"]]


def _tiny_autoencoder() -> CompactAutoencoder:
    autoencoder = CompactAutoencoder(latent_channels=4, encoder_widths=(8, 8), decoder_widths=(8, 8, 8, 8))
    with torch.no_grad():
        # untrained, its pictures would hardly show what the latents are
        autoencoder.decoder[-1].weight.mul_(10)
    return autoencoder.eval()


def _tiny_pipeline() -> FASTPipeline:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        pipeline = FASTPipeline(
            vae=_tiny_autoencoder(),
            unet=build_unet(
                latent_channels=4, size=32, block_out_channels=(16, 16), layers_per_block=1, token_width=16
            ).eval(),
            scheduler=build_scheduler(kernel="exact", spacing="logsnr", solver_order=2),
            farm=FARM(in_channels=4, width=8, time_embed_dim=16, class_embed_dim=16).eval(),
            tokens=DefectTokens(PAIRS, num_tokens=2, cross_attention_dim=16).eval(),
        )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture
def tiny_autoencoder() -> CompactAutoencoder:
    """4 latent channels, 8 channels everywhere, in eval mode."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return _tiny_autoencoder()


@pytest.fixture
def build_pipeline() -> Callable[[], FASTPipeline]:
    """Builds the same untrained pipeline every time: squares of 32 px, tile/crack and tile/dent."""
    return _tiny_pipeline


@pytest.fixture
def pipeline() -> FASTPipeline:
    """One tiny untrained pipeline."""
    return _tiny_pipeline()
