"""The base that FAST starts from: UNet, FARM and tokens pretrained on generated defects, without the user's data.

A bundle is a folder with the three parts as diffusers saves them, in half precision, and `bundle.json`: the hash of
every weight file, and of the encoder in whose latents they work: another decoder of them is welcome.
"""

from pathlib import Path
from typing import NamedTuple

import torch
from diffusers import UNet2DConditionModel
from torch import nn

from fastsynth.diffusion.autoencoder import CompactAutoencoder
from fastsynth.diffusion.conditioning import NORMAL, DefectTokens
from fastsynth.diffusion.farm import FARM
from fastsynth.diffusion.hashing import check_files, file_hashes, weights_sha256
from fastsynth.diffusion.pipeline import FASTPipeline
from fastsynth.files import read_json, write_json

BUNDLED_BASE = Path(__file__).parent.parent / "weights" / "base"
CONTENTS = "bundle.json"
PARTS = {"unet": UNet2DConditionModel, "farm": FARM, "tokens": DefectTokens}


class Base(NamedTuple):
    """The pretrained parts, float32."""

    unet: UNet2DConditionModel
    farm: FARM
    tokens: DefectTokens


def save_base(pipeline: FASTPipeline, folder: Path) -> None:
    """Write the bundle of a pretrained pipeline, whose weights are rounded to half precision on the way."""
    for name in PARTS:
        getattr(pipeline, name).half().save_pretrained(folder / name)
        getattr(pipeline, name).float()
    write_json(folder / CONTENTS, {"encoder_sha256": _encoder_sha256(pipeline.vae), "sha256": file_hashes(folder)})


def load_base(folder: Path, *, autoencoder: CompactAutoencoder) -> Base:
    """The bundle in `folder`.

    Raises:
        FileNotFoundError: there is none, or a file is missing.
        ValueError: a file is damaged, or the bundle belongs to another autoencoder.
    """
    if not (folder / CONTENTS).is_file():
        raise FileNotFoundError(
            f"{folder}: no base here ({CONTENTS} is missing); check base.pretrained, or set it to null"
        )
    contents = read_json(folder / CONTENTS)
    check_files(folder, contents["sha256"])
    if _encoder_sha256(autoencoder) != contents["encoder_sha256"]:
        raise ValueError(
            f"{folder} was trained with another autoencoder; set base.autoencoder or base.pretrained to null"
        )
    return Base(*(kind.from_pretrained(folder / name).float() for name, kind in PARTS.items()))


def _encoder_sha256(autoencoder: CompactAutoencoder) -> str:
    return weights_sha256(nn.Sequential(autoencoder.encoder, autoencoder.whiten))


def adapted_tokens(base: DefectTokens, pairs: list[tuple[str, str]], *, seed: int) -> DefectTokens:
    """Tokens for the user's `pairs` that start as the base's: defects near the mean of its defects, normals as its own.

    The defects start a little apart, by noise of `seed`, or attention could not tell them from one another.
    """
    count, width = base.config["num_tokens"], base.config["cross_attention_dim"]
    tokens = DefectTokens(pairs=[list(pair) for pair in pairs], num_tokens=count, cross_attention_dim=width)
    sound = torch.tensor([defect == NORMAL for _, defect in base.entries])
    learnt = base.tokens.detach()
    noise = torch.randn(tokens.tokens.shape, generator=torch.Generator().manual_seed(seed))
    apart = noise * learnt[~sound].std(dim=0)
    with torch.no_grad():
        for row, (_, defect) in enumerate(tokens.entries):
            start = learnt[sound].mean(dim=0) if defect == NORMAL else learnt[~sound].mean(dim=0) + apart[row]
            tokens.tokens[row] = start
    return tokens
