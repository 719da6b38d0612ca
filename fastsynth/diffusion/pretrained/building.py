"""A new FAST pipeline on a pretrained base: its parts frozen, FARM and tokens fresh."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, cast

import torch
from torch import nn

from fastsynth.diffusion.farm import FARM
from fastsynth.diffusion.pretrained.folders import AUTOENCODER_FILES, base_scheduler, load_base, locate
from fastsynth.diffusion.pretrained.latents import cell_size
from fastsynth.diffusion.pretrained.pipeline import PretrainedFASTPipeline
from fastsynth.diffusion.pretrained.prompts import PromptTokens
from fastsynth.diffusion.pretrained.spatial import SpatialEncoder

Precision = Literal["fp32", "bf16", "fp16"]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
FROZEN = ("vae", "text_encoder", "unet")
"""Parts that come from the base."""


def new_pretrained_pipeline(
    pairs: Sequence[tuple[str, str]],
    *,
    pretrained: str,
    download: bool,
    revision: str | None,
    autoencoder: str | None,
    precision: Precision,
    prompt: str,
    normal_prompt: str,
    tokens_per_category: int,
    tokens_per_defect: int,
    words: Mapping[str, str],
    farm: Literal["improved", "published"],
    spatial_tokens: int,
    size: int,
    kernel: Literal["exact", "published"],
    spacing: Literal["logsnr", "uniform"],
    solver_order: Literal[1, 2],
    seed: int,
) -> PretrainedFASTPipeline:
    """A pipeline for the (category, defect) `pairs` on the base `pretrained`; arguments as in `PretrainedBaseConfig`.

    size: side of the crops in pixels. seed: of the initial weights; the global random state is put back.

    Raises FileNotFoundError or ValueError for a base that is not there or does not fit.
    """
    folder = locate(pretrained, download=download, revision=revision)
    other = None if autoencoder is None else locate(autoencoder, download=download, files=AUTOENCODER_FILES)
    base = load_base(folder, dtype=DTYPES[precision], autoencoder=other)
    embeddings = cast(nn.Embedding, base.text_encoder.get_input_embeddings())
    width, channels = embeddings.embedding_dim, int(base.vae.config["latent_channels"])
    _check_size(size, cell=cell_size(base.vae), farm=farm)
    module, spatial = _fresh(farm, channels=channels, width=width, spatial_tokens=spatial_tokens, seed=seed)
    tokens = PromptTokens(
        pairs=[list(pair) for pair in pairs],
        prompt=prompt,
        normal_prompt=normal_prompt,
        tokens_per_category=tokens_per_category,
        tokens_per_defect=tokens_per_defect,
        cross_attention_dim=width,
        words=dict(words),
    )
    tokens.start_from_words(base.tokenizer, embeddings)
    pipeline = PretrainedFASTPipeline(
        vae=base.vae,
        text_encoder=base.text_encoder,
        tokenizer=base.tokenizer,
        unet=base.unet,
        scheduler=base_scheduler(base, kernel=kernel, spacing=spacing, solver_order=solver_order),
        farm=module,
        tokens=tokens.eval(),
        spatial=spatial,
        crop_size=size,
    )
    pipeline.prompts()  # one that does not fit is better found now than after encoding
    return pipeline


def _fresh(
    farm: Literal["improved", "published"], *, channels: int, width: int, spatial_tokens: int, seed: int
) -> tuple[FARM, SpatialEncoder | None]:
    """FARM and, if it is asked for, the spatial encoder, with weights of `seed`."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        improved = farm == "improved"
        module = FARM(in_channels=channels, class_embed_dim=width) if improved else FARM.published(channels)
        spatial = SpatialEncoder(spatial_tokens, width).eval() if spatial_tokens else None
    return module.eval(), spatial


def open_pretrained_pipeline(
    folder: Path,
    *,
    precision: Precision,
    kernel: Literal["exact", "published"],
    spacing: Literal["logsnr", "uniform"],
    solver_order: Literal[1, 2],
) -> PretrainedFASTPipeline:
    """A saved pipeline, to sample as these settings say."""
    dtypes = {"default": torch.float32, **dict.fromkeys(FROZEN, DTYPES[precision])}
    pipeline = PretrainedFASTPipeline.from_pretrained(folder, dtype=dtypes, local_files_only=True)
    changed = {"kernel": kernel, "spacing": spacing, "solver_order": solver_order}
    pipeline.scheduler = type(pipeline.scheduler).from_config(pipeline.scheduler.config, **changed)
    return pipeline


def _check_size(size: int, *, cell: int, farm: str) -> None:
    if size % cell:
        raise ValueError(f"crop_size is {size}, the base's latents have cells of {cell} px; use a multiple of {cell}")
    if farm == "published" and size != 32 * cell:
        raise ValueError(
            f"crop_size is {size}, the published FARM is for {32 * cell} px with this base; "
            f"use crop_size {32 * cell} or base.farm improved"
        )
